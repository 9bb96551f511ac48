"""SIGTERM, with which clusters say that they will end a process soon."""

from collections.abc import Callable
import logging
import signal
import threading
import time
from typing import Any, Self

log = logging.getLogger(__name__)


class Notice:
    """Hears SIGTERM, while it is entered: work at hand can be brought to an end.

    A second one ends the process as if nobody listened. Handlers belong to the main
    thread; elsewhere nothing is heard.
    """

    def __init__(self) -> None:
        """Nothing is heard yet."""
        self.given = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *unused: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        self._before = None

    def _hear(self, number: int, frame: object) -> None:
        self.given = True
        signal.signal(signal.SIGTERM, self._before)


class Interval:
    """Whether some minutes have gone by."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        """Begins now; with 0 minutes nothing is ever due."""
        self._seconds, self._clock = 60 * minutes, clock
        self._begun = clock()

    @property
    def due(self) -> bool:
        """They have, since the beginning or the last `restart`."""
        return bool(self._seconds) and self._clock() - self._begun >= self._seconds

    def restart(self) -> None:
        """Begins anew."""
        self._begun = self._clock()
