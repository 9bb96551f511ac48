"""Counts what XLA compiles: after the first step of a stage it should be nothing."""

import threading
from typing import Self

import jax

_COMPILE = '/jax/core/compile/backend_compile_duration'


class Counter:
    """Programs compiled and the seconds that took, since it was entered or reset.

    A context manager. It counts what its own thread compiles: what a checkpoint does
    in the background is no part of a step.
    """

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        self.reset()
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *unused: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def reset(self) -> None:
        """Starts anew."""
        self.programs, self.seconds = 0, 0.0

    def _heard(self, event: str, duration_secs: float, **unused: str | int) -> None:
        if event == _COMPILE and threading.get_ident() == self._thread:
            self.programs += 1
            self.seconds += duration_secs
