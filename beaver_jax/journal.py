"""What is written, shown and thought of each step of a run, and what ends it."""

from collections.abc import Collection, Mapping, Sequence
import logging
import pathlib
from typing import Any

import jax
import ml_collections

from beaver_jax import config as config_lib
from beaver_jax import layout
from beaver_jax import watch

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """What ends a run for a reason that its user can mend."""


class Journal:
    """What is written, shown and thought of each step, in their order."""

    def __init__(self, config, stage, writer, progress, start: int):
        """Nothing is written yet."""
        self._config, self._stage = config, stage
        self._writer, self._progress = writer, progress
        self._history = watch.History()
        self.found: dict[str, float] = {}  # the last metrics
        self.step = start  # steps written
        self.sound = start  # the last step of which there was nothing to say
        self.bad = 0  # steps without finite gradients, up to now
        self.trouble: tuple[str, str] | None = None  # that ends the run, and a remedy

    def recall(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Takes up what was written before this start."""
        bounds = self._stage.bounds
        for row in rows if bounds is not None else ():
            self._history = watch.observe(self._history, row, bounds)

    def write(self, step: int, metrics: Mapping[str, Any], seconds: Any) -> None:
        """Waits for a step's metrics, and for its seconds by phase (a future)."""
        stage = self._stage
        found = {name: float(x) for name, x in jax.device_get(dict(metrics)).items()}
        found |= {name: float(rate(step)) for name, rate in stage.rates.items()}
        timings = seconds.result()
        timings |= stage.pace(found, timings)
        if not self.found:
            _check_metric(self._config.checkpoint, found)
        self.found, self.step = found, step + 1
        written = step % self._config.log.every == 0 or self.step == stage.steps
        if written:
            self._writer.write(self.step, found)
            self._writer.write_timings(self.step, timings)
        self._progress.update(self.step, stage.glance(found), timings)
        self._judge(found)
        if written and stage.bounds is not None:
            self._watch(found, stage.bounds)

    def _judge(self, found: Mapping[str, float]) -> None:
        self.bad = round(found['train/bad_steps'])
        self.sound = self.sound if self.bad else self.step
        if self.bad >= self._config.max_bad_steps:
            self.trouble = (
                f'{self.bad} updates in a row had non-finite gradients and were '
                'skipped',
                'Lower the learning rate',
            )

    def _watch(self, found: Mapping[str, float], bounds: watch.Bounds) -> None:
        before = self._history
        row = {'step': float(self.step), **found}
        self._history = now = watch.observe(before, row, bounds)
        for text in watch.new(before, now):
            log.warning('%s, step %d: %s', self._config.stage, self.step, text)
        if now.signs and bounds.then == 'stop' and not self.trouble:
            self.sound = now.sound
            self.trouble = (
                ' and '.join(now.signs.values()),
                'Lower the learning rate or raise config.ppo.kl_coeff',
            )


def ended(journal: Journal, checkpoints: Any, directory: pathlib.Path) -> RunError:
    """What ends a run that has gone wrong: skipped updates, a policy that diverges.

    A checkpoint is good if a step from it was sound. That of the last such step holds
    the parameters that were wrong at the next.
    """
    checkpoints.wait()
    steps = checkpoints.steps()
    good = [saved for saved in steps if saved < journal.sound]
    where = directory / layout.CHECKPOINTS
    if good:
        last = f'the last good checkpoint is {where}/{good[-1]}'
    else:
        last = 'there is no good checkpoint yet'
    if good and good[-1] != steps[-1]:
        bad = ' and '.join(f'{where}/{saved}' for saved in steps[len(good) :])
        last += f', remove {bad} to go back to it'
    assert journal.trouble is not None  # why this is called
    what, remedy = journal.trouble
    return RunError(
        f'step {journal.step}: {what}; {last}. {remedy}, and go on with '
        '--config.if_exists=resume or start anew with --config.if_exists=overwrite.'
    )


def _check_metric(section: ml_collections.ConfigDict, found: Collection[str]) -> None:
    """Refuses, before anything is saved, to look for the best by what there is not."""
    if section.best and section.metric not in found:
        raise RunError(
            f'config.checkpoint.metric={section.metric!r} is no metric of this stage;'
            f'{config_lib.nearest(section.metric, found)} metrics.jsonl has them all.'
        )
