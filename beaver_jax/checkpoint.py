"""Orbax checkpoints of a whole training state with its data position.

Saving is asynchronous and atomic: a checkpoint has its final name only once it is
complete, so a run killed at any moment finds whole checkpoints only.
"""

import contextlib
import logging
import pathlib
from typing import Any

import jax
from orbax.checkpoint.experimental import v1 as ocp

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or does not fit the run."""


class Checkpoints:
    """The checkpoints of one stage: saved by step, the last few kept."""

    def __init__(self, directory: pathlib.Path, *, keep: int):
        """Opens a directory, made if it does not exist.

        Args:
          directory: Of the stage's checkpoints.
          keep: How many of the newest stay.

        Raises:
          CheckpointError: The directory cannot be written.
        """
        if keep < 1:
            raise ValueError(f'config.checkpoint.keep={keep}; must be at least 1.')
        self._directory = directory.resolve()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._checkpointer = ocp.training.Checkpointer(
                self._directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise CheckpointError(
                f'{directory}: cannot be written ({error}); '
                'set config.run to a directory with space and permission.'
            ) from error
        self._pending: Any = None

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind, *unused) -> None:
        try:
            self.wait()
        except CheckpointError as error:
            if kind is None:
                raise
            log.error('%s', error)
        finally:
            # After a failed save it raises that failure again.
            with contextlib.suppress(OSError, ValueError):
                self._checkpointer.close()

    def save(self, step: int, state: Any, position: Any) -> None:
        """Starts saving; waits only for the save before.

        Args:
          step: Steps taken so far.
          state: A pytree of arrays.
          position: JSON-like data position.

        Raises:
          CheckpointError: The save before failed, or this one cannot start.
        """
        self.wait()
        try:
            self._pending = self._checkpointer.save_async(
                step, state, custom_metadata={'position': position}
            )
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
          CheckpointError: It failed; names the last checkpoint that is whole.
        """
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CheckpointError:
        steps = self.steps()
        last = (
            f'the last whole one is of step {steps[-1]}' if steps else 'none is whole'
        )
        return CheckpointError(
            f'{self._directory}: a checkpoint could not be saved ({error}); {last}. '
            'Free some space and start the run again: it resumes there.'
        )

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return sorted(metadata.step for metadata in self._checkpointer.checkpoints)

    def restore(self, abstract_state: Any) -> tuple[int, Any, Any] | None:
        """Restores the newest checkpoint.

        Args:
          abstract_state: The state's shapes, types and shardings.

        Returns:
          (step, state, data position), or None where there is no checkpoint.

        Raises:
          CheckpointError: The checkpoint's arrays are not those of this run.
        """
        steps = self.steps()
        if not steps:
            return None
        step = steps[-1]
        saved = self._checkpointer.metadata(step)
        self._check_fits(step, saved.metadata, abstract_state)
        state = self._checkpointer.load(step, abstract_state)
        return step, state, saved.custom_metadata['position']

    def _check_fits(self, step: int, saved: Any, abstract_state: Any) -> None:
        """Compares names and shapes, as Orbax would say less of what differs."""
        have = _shapes(saved)
        want = _shapes(abstract_state)
        missing = sorted(want.keys() - have.keys())
        left_over = sorted(have.keys() - want.keys())
        shapes = [
            f'{name} is {have[name]}, not {want[name]}'
            for name in sorted(want.keys() & have.keys())
            if have[name] != want[name]
        ]
        problems = [
            f'{what}: {", ".join(found[:6])}{" …" if found[6:] else ""}'
            for what, found in (
                ('missing', missing),
                ('left over', left_over),
                ('wrong shape', shapes),
            )
            if found
        ]
        if problems:
            raise CheckpointError(
                f'{self._directory}: the checkpoint of step {step} is of another '
                f'architecture or optimizer; {"; ".join(problems)}. Use another '
                'config.run, or config.if_exists=overwrite.'
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
        for path, leaf in flat
    }


def abstract(state: Any, shardings: Any) -> Any:
    """Shapes, types and shardings of a state, to restore into."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        shardings,
    )
