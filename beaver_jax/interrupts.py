"""SIGTERM, with which clusters say that they will end a process soon, and Ctrl-C."""

from collections.abc import Callable
import contextlib
import os
import signal
import threading
import time
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SOON = (
    b'\nStopping: a checkpoint is saved first. Ctrl-C once more does not wait for it.\n'
)
_STDERR = 2


class Notice:
    """Hears SIGTERM and SIGINT, while it is entered: work can be brought to an end.

    A second one of a kind is as if nobody listened, and one that was ignored before
    stays so. Handlers belong to the main thread; elsewhere nothing is heard.
    """

    def __init__(self, *, tells: bool = False) -> None:
        """Nothing is heard yet.

        Args:
          tells: Whoever presses Ctrl-C is told what happens now.
        """
        self.given = False
        self.by_key = False  # SIGINT, which is Ctrl-C
        self._tells = tells
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, *unused: object) -> None:
        for number in _SIGNALS:
            self._restore(number)

    def _hear(self, number: int, frame: object) -> None:
        self.given = True
        self._restore(number)
        if number == signal.SIGINT:
            self.by_key = True
            if self._tells:
                # Not through sys.stderr, which may be in the middle of a line; and
                # whoever read it may have ended by the same Ctrl-C.
                with contextlib.suppress(OSError):
                    os.write(_STDERR, _SOON)

    def _restore(self, number: int) -> None:
        # Another signal may come at any point here.
        if number in self._before:
            # None is a handler that Python did not set.
            signal.signal(number, self._before[number] or signal.SIG_DFL)
            self._before.pop(number, None)


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
