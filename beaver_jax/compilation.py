"""What XLA compiles: kept between runs, and counted.

After the first step of a stage it should be nothing.
"""

import os
import pathlib
import threading
from typing import Self

import jax

_DIRECTORY = 'jax_compilation_cache_dir'
_COMPILE = '/jax/core/compile/backend_compile_duration'


def keep() -> None:
    """Keeps compiled programs on disk, so that a run started again need not wait.

    In ~/.cache/beaver_jax/compiled (or below XDG_CACHE_HOME), unless JAX was told where
    (JAX_COMPILATION_CACHE_DIR). JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    """
    if getattr(jax.config, _DIRECTORY) is None:
        caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        directory = pathlib.Path(caches).expanduser() / 'beaver_jax' / 'compiled'
        jax.config.update(_DIRECTORY, str(directory))


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
