"""Orbax checkpoints of a whole training state with its data position.

Saving is asynchronous and atomic: a checkpoint has its final name only once it is
complete, so a run killed at any moment finds whole checkpoints only. What a disk or a
hand breaks later shows by sums over every array, and the checkpoint before it is used.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import logging
import math
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax
from orbax.checkpoint.experimental import v1 as ocp

from beaver_jax import checksums
from beaver_jax import distributed
from beaver_jax import integrity

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or does not fit the run."""


@dataclasses.dataclass(frozen=True)
class Best:
    """Which checkpoints stay for what they are worth.

    Attributes:
      count: How many; 0 for none.
      metric: What they are worth, of those given to `save`.
      mode: 'min' or 'max' of it is best.
    """

    count: int
    metric: str
    mode: str


class Checkpoints:
    """The checkpoints of one stage: saved by step, the newest and the best kept."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        best: Best | None = None,
        bases: Mapping[str, str] | None = None,
    ):
        """Opens a directory, made if it does not exist.

        Args:
          directory: Of the stage's checkpoints.
          keep: How many of the newest stay.
          best: Which older ones stay beside.
          bases: Fingerprints, by config key, of the models that the state's adapters
            stand on, which are not a part of the state.

        Raises:
          CheckpointError: The directory cannot be written.
        """
        if keep < 1:
            raise ValueError(f'config.checkpoint.keep={keep}; must be at least 1.')
        self._directory = directory.resolve()
        self._bases = dict(bases or {})
        self._metric = best.metric if best is not None and best.count else None
        context = ocp.Context()
        # Replicas share the writing of an array; small ones are not worth the cut.
        saving = context.array_options.saving
        saving.min_slice_bytes_for_replica_parallel = 2**20
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._checkpointer = self._open(
                preservation_policy=_policy(keep, best),
                cleanup_tmp_directories=True,
                context=context,
            )
        except OSError as error:
            raise CheckpointError(
                f'{directory}: cannot be written ({error}); '
                'set config.run to a directory with space and permission.'
            ) from error
        self._pending: Any = None

    def _open(self, **options: Any) -> Any:
        try:
            return ocp.training.Checkpointer(self._directory, **options)
        except OSError:
            raise
        except Exception:
            # One checkpoint of which Orbax cannot read the metadata, and it opens none.
            broken = integrity.unlisted(self._directory)
            if not broken:
                raise
        for step in broken:
            log.warning(
                '%s', integrity.broken(self._directory, step, integrity.UNREADABLE)
            )
        distributed.by_first(self._put_aside, broken)
        return ocp.training.Checkpointer(self._directory, **options)

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

    def save(
        self,
        step: int,
        state: Any,
        position: Any,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts saving; waits only for the save before.

        Args:
          step: Steps taken so far.
          state: A pytree of arrays.
          position: JSON-like data position.
          metrics: Of the step. Without that by which checkpoints are kept, or where it
            is not finite, this one is none of the best.

        Raises:
          CheckpointError: The save before failed, or this one cannot start.
        """
        self.wait()
        notes = {
            'position': position,
            'bases': self._bases,
            'checksums': checksums.of(state),
        }
        notes['digest'] = integrity.digest(notes, integrity.shapes(state))
        worth = (metrics or {}).get(self._metric or '', math.nan)
        try:
            self._pending = self._checkpointer.save_async(
                step,
                state,
                metrics={self._metric: worth} if math.isfinite(worth) else None,
                custom_metadata=notes,
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
        """Restores the newest checkpoint that is not broken.

        Newer ones that are broken are put aside, into <directory>.broken.

        Args:
          abstract_state: The state's shapes, types and shardings.

        Returns:
          (step, state, data position), or None where there is no checkpoint.

        Raises:
          CheckpointError: The checkpoint's arrays are not those of this run, its
            adapters have learnt on another base, or all checkpoints are broken.
        """
        # Of a directory on a network processes may have different views.
        steps = distributed.by_first(self.steps)
        for count, step in enumerate(reversed(steps)):
            found, problem = None, ''
            try:
                found = self._load(step, abstract_state)
            except CheckpointError:
                raise
            except Exception as error:  # whatever a broken file may lead to
                problem = integrity.first_line(error)
            if distributed.any_process(found is None):
                problem = distributed.said(problem)
                log.warning('%s', integrity.broken(self._directory, step, problem))
                continue
            distributed.by_first(self._put_aside, steps[len(steps) - count :])
            if count:
                self._checkpointer.reload()
            return found
        if steps:
            raise CheckpointError(
                f'{self._directory}: every checkpoint is broken ('
                f'{", ".join(map(str, steps))}). Put back a copy of one, or start anew '
                'with config.if_exists=overwrite.'
            )
        return None

    def _put_aside(self, steps: Sequence[int]) -> None:
        """Makes room for new checkpoints of these steps, and deletes nothing."""
        aside = self._directory.with_name(f'{self._directory.name}.broken')
        for step in steps:
            aside.mkdir(exist_ok=True)
            names = (f'{step}{end}' for end in ('', *map('-{}'.format, range(1, 99))))
            name = next(name for name in names if not (aside / name).exists())
            (self._directory / str(step)).rename(aside / name)

    def _load(self, step: int, abstract_state: Any) -> tuple[int, Any, Any]:
        saved = integrity.metadata(self._checkpointer, step)
        problems = integrity.differences(
            integrity.shapes(abstract_state), integrity.shapes(saved.metadata)
        )
        if problems:
            raise CheckpointError(
                f'{self._directory}: the checkpoint of step {step} is of another '
                f'architecture or optimizer; {problems}. Use another config.run, or '
                'config.if_exists=overwrite.'
            )
        check_bases(saved.custom_metadata.get('bases', {}), self._bases)
        state = self._checkpointer.load(step, abstract_state)
        checksums.verify(saved.custom_metadata.get('checksums', {}), state)
        return step, state, saved.custom_metadata['position']


def _policy(keep: int, best: Best | None) -> Any:
    """What Orbax asks which checkpoints stay."""
    policies = ocp.training.preservation_policies
    newest = policies.LatestN(keep)
    if best is None or not best.count:
        return newest
    # Of checkpoints that another metric was judged by nothing is known.
    worst = math.inf if best.mode == 'min' else -math.inf
    ranked = policies.BestN(
        get_metric_fn=lambda metrics: metrics.get(best.metric, worst),
        reverse=best.mode == 'min',
        n=best.count,
        keep_checkpoints_without_metrics=False,
    )
    return policies.AnyPreservationPolicy([newest, ranked])


def check_bases(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compares fingerprints of the models that adapters stand on, by config key.

    Raises:
      CheckpointError: A model has other weights now.
    """
    changed = [name for name in now if then.get(name, now[name]) != now[name]]
    if changed:
        names = ' and '.join(f'config.{name}' for name in changed)
        raise CheckpointError(
            f'the weights of {names} are not those that the adapters of the checkpoint '
            'have learnt on. Put those weights back, or start anew with another '
            'config.run or config.if_exists=overwrite.'
        )


class Part(NamedTuple):
    """What was read of a checkpoint."""

    step: int
    trees: dict[str, Any]
    bases: dict[str, str]  # as given to `Checkpoints`


def read(
    directory: pathlib.Path, abstract: Mapping[str, Any], step: int | None = None
) -> Part:
    """Reads parts of a checkpoint, and leaves everything as it is.

    A run may go on saving meanwhile.

    Args:
      directory: Of a stage's checkpoints.
      abstract: Shapes, types and shardings of trees, by their place in the state, such
        as 'actor/params'. Values are cast to these types.
      step: Of the checkpoint; None for the newest that is not broken.

    Raises:
      CheckpointError: There is no such checkpoint, it is broken, or its arrays have
        other names or shapes.
    """
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    if not directory.is_dir():
        raise CheckpointError(f'{directory}: no checkpoints there.')
    try:
        opened = ocp.training.Checkpointer(directory.resolve(), context=context)
    except Exception as error:
        raise CheckpointError(
            f'{directory}: the metadata of checkpoint '
            f'{", ".join(map(str, integrity.unlisted(directory)))} cannot be read '
            f'({integrity.first_line(error)}). Start its run again, it is put aside, '
            'or move it away.'
        ) from error
    with opened:
        steps = sorted(metadata.step for metadata in opened.checkpoints)
        if not steps:
            raise CheckpointError(f'{directory}: no whole checkpoint there.')
        if step is not None and step not in steps:
            raise CheckpointError(
                f'{directory}: no checkpoint of step {step}; there are '
                f'{", ".join(map(str, steps))}.'
            )
        for one in [step] if step is not None else reversed(steps):
            found, problem = None, ''
            try:
                found = _read(opened, directory, one, abstract)
            except CheckpointError:
                raise
            except Exception as error:  # whatever a broken file may lead to
                problem = integrity.first_line(error)
            if not distributed.any_process(found is None):
                assert found is not None  # in no process
                return found
            log.warning('%s', integrity.broken(directory, one, problem))
    which = f'of step {step}' if step is not None else 'that is whole'
    raise CheckpointError(f'{directory}: no checkpoint {which} can be read.')


def _read(
    opened: Any, directory: pathlib.Path, step: int, abstract: Mapping[str, Any]
) -> Part:
    saved = integrity.metadata(opened, step)
    have = integrity.shapes(saved.metadata)
    for place, tree in abstract.items():
        prefix = f'{place}/'
        problems = integrity.differences(
            {
                f'{prefix}{name}': shape
                for name, shape in integrity.shapes(tree).items()
            },
            {name: have[name] for name in have if name.startswith(prefix)},
        )
        if problems:
            raise CheckpointError(
                f'{directory}: the checkpoint of step {step} is of another model '
                f'than config.json says; {problems}.'
            )
    wanted = traverse_util.unflatten_dict(dict(abstract), sep='/')
    whole = opened.load(step, wanted)
    if _types(wanted).items() <= _types(saved.metadata).items():
        checksums.verify(saved.custom_metadata.get('checksums', {}), whole)
    trees = {place: _at(whole, place) for place in abstract}
    return Part(step, trees, dict(saved.custom_metadata.get('bases', {})))


def _types(tree: Any) -> dict[str, str]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): str(leaf.dtype)
        for path, leaf in flat
    }


def _at(tree: Any, place: str) -> Any:
    for name in place.split('/'):
        tree = tree[name]
    return tree


def abstract(state: Any, shardings: Any) -> Any:
    """Shapes, types and shardings of a state, to restore into."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        shardings,
    )
