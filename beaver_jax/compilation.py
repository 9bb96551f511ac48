"""What XLA compiles: kept between runs, ahead of time, and counted.

After the first step of a stage it should be nothing.
"""

from collections.abc import Callable
import os
import pathlib
import threading
import time
from typing import Any, NamedTuple, Self

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
        self.names: list[str] = []  # of functions, as far as they are known
        self.seconds = 0.0

    @property
    def programs(self) -> int:
        """How many."""
        return len(self.names)

    def _heard(self, event: str, duration_secs: float, **more: str | int) -> None:
        if event == _COMPILE and threading.get_ident() == self._thread:
            self.names.append(str(more.get('fun_name', 'a program')))
            self.seconds += duration_secs


class Ahead(NamedTuple):
    """What a program took to compile, and what it will need."""

    seconds: float
    bytes: int  # of a device: arguments, results and what is held between


class Program:
    """A jitted function that can be compiled before its arguments are there."""

    def __init__(self, function: jax.stages.Wrapped):
        """Until it is compiled it is the function."""
        self._function = function
        self._compiled: dict[Any, Callable[..., Any]] = {}  # by shapes

    def __call__(self, *args: Any) -> Any:
        """Calls it; once compiled, only with shapes that it was compiled for."""
        if not self._compiled:
            return self._function(*args)
        if len(self._compiled) == 1:
            (call,) = self._compiled.values()
        else:
            call = self._compiled[_shapes(args)]
        return call(*args)

    @property
    def compiled(self) -> bool:
        """For some shapes at least."""
        return bool(self._compiled)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """The function, lowered for arrays or shapes with shardings."""
        return self._function.lower(*args)

    def ahead(self, *args: Any) -> tuple[Ahead, Any]:
        """Compiles it for arrays, or shapes with shardings.

        Returns:
          (what that took, its results as shapes with shardings).
        """
        begun = time.perf_counter()
        lowered = self.lower(*args)
        compiled = self._compiled[_shapes(args)] = lowered.compile()
        seconds = time.perf_counter() - begun
        results = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            lowered.out_info,
            compiled.output_shardings,
        )
        return Ahead(seconds, _needed(compiled)), results


def _shapes(args: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(getattr(leaf, 'shape', ()) for leaf in jax.tree.leaves(args))


def _needed(compiled: jax.stages.Compiled) -> int:
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes  # of donated arguments
    )
