"""A rate limit that threads share."""

from collections.abc import Callable
import threading
import time


class Pace:
    """Lets so many pass a minute, at equal distances. Any thread may wait."""

    def __init__(
        self,
        per_minute: float,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins now.

        Args:
          per_minute: 0 for no limit.
          sleep: Waits for seconds.
          clock: Seconds.
        """
        self._interval = 60 / per_minute if per_minute else 0.0
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Returns when it is this caller's turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._interval
        if turn > now:
            self._sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Lets nobody pass for a while who does not wait already."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)
