"""Trains a stage, and first the missing stages that it starts from.

    python -m beaver_jax.train --config=configs/ppo_lag.py

A run that was killed goes on from its last checkpoint when it is started again. A
stage of reinforcement learning ends with an evaluation and a report.
"""

from collections.abc import Iterator, Sequence
import contextlib
import logging
import pathlib
import sys
import time
from typing import Any, NoReturn

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import checkpoint
from beaver_jax import compilation
from beaver_jax import config as config_lib
from beaver_jax import distributed
from beaver_jax import evaluate
from beaver_jax import heartbeats
from beaver_jax import interrupts
from beaver_jax import metrics as metrics_lib
from beaver_jax import report
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import terminal
from beaver_jax.stages import directories
from beaver_jax.stages import inputs

log = logging.getLogger('beaver_jax.train')  # also when it is __main__


class RunError(RuntimeError):
    """What ends a run for a reason that its user can mend."""


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what the command line asks for; one line tells of an error."""
    place, argv = distributed.options(sys.argv[1:] if argv is None else argv)
    terminal.show_log()
    compilation.keep()
    config = config_lib.from_argv(argv)
    with (
        distributed.joined(place),
        terminal.errors_in_a_line(RunError, checkpoint.CheckpointError, OSError),
        metrics_lib.explained(config.run),
    ):
        terminal.show_log(jax.process_index())
        run(config, config_lib.folder(argv))


def run(config: ml_collections.ConfigDict, folder: str) -> None:
    """Trains a stage after its missing inputs; a policy is evaluated and reported.

    Args:
      config: Of the stage that is wanted.
      folder: Where the configs of its inputs are.
    """
    with _mendable():
        mesh = sharding.make_mesh(**config.mesh)
        inputs.settle(config)
        wanted = stages.chain(config, folder)
        stages.check(wanted, mesh)
        if config.stage in stages.REINFORCED:
            evaluate.check(stages.evaluation(config, folder), mesh)
    if wanted[1:]:
        missing = ', '.join(str(directories.directory(one)) for one in wanted[:-1])
        log.info('%s needs %s: trained first', config.stage, missing)
    with jax.set_mesh(mesh):
        for stage_config in wanted:
            train(stage_config, mesh)
        if config.stage in stages.REINFORCED:
            with _mendable():
                finish(config, folder, mesh)


def finish(config: ml_collections.ConfigDict, folder: str, mesh: Mesh) -> None:
    """Evaluates and reports a trained policy, unless that was done since."""
    evaluation = stages.evaluation(config, folder)
    trained = directories.directory(config) / directories.SUMMARY
    results = directories.directory(evaluation) / directories.RESULTS
    reported = pathlib.Path(config.run) / report.SUMMARY
    if not directories.check(evaluation) or not _is_newer(results, trained):
        evaluate.run(evaluation, mesh)
    if jax.process_index() == 0 and not _is_newer(reported, results):
        report.show(report.write(config.run))
        log.info('%s/report/index.html', config.run)


def _is_newer(file: pathlib.Path, than: pathlib.Path) -> bool:
    return file.is_file() and file.stat().st_mtime_ns >= than.stat().st_mtime_ns


@contextlib.contextmanager
def _mendable() -> Iterator[None]:
    """Around what reads inputs: a ValueError there is what its message says."""
    try:
        yield
    except ValueError as error:
        raise RunError(str(error)) from error


def train(config: ml_collections.ConfigDict, mesh: Mesh) -> bool:
    """Trains one stage to its end; returns False where it was done before."""
    begun = time.monotonic()
    directory = directories.directory(config)

    # ---- Directory and models -----------------------------------------------------
    with _mendable():
        if directories.claim(config):
            log.info('%s: done, nothing to do', directory)
            return False
        log.info('%s: building', directory)
        stage = stages.build(config, mesh)
    state, shardings = stage.state, stage.shardings()
    stage.state = None  # the loop donates it

    with (
        compilation.Counter() as compiled,
        checkpoint.Checkpoints(
            directory / directories.CHECKPOINTS,
            keep=config.checkpoint.keep,
            bases=stage.bases,
        ) as checkpoints,
    ):
        # ---- Resume ---------------------------------------------------------------
        start = 0
        restored = checkpoints.restore(checkpoint.abstract(state, shardings))
        if restored is not None:
            start, state, position = restored
            stage.feed.seek(position)
            log.info('%s: resumed after step %d of %d', directory, start, stage.steps)
        first = jax.process_index() == 0
        writer = metrics_lib.Writer(
            directory,
            resume_step=start if restored is not None else None,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
            enabled=first,
        )
        progress = terminal.Progress(
            config.stage, stage.steps, start=start, enabled=first
        )

        card = directory / directories.CARD
        if first and (restored is None or not card.exists()):
            metrics_lib.write_json(card, stage.card())

        # ---- Loop -----------------------------------------------------------------
        finite = start  # the last step whose gradients were finite
        seed_key = jax.random.key(config.seed)
        interval = interrupts.Interval(config.checkpoint.minutes)
        votes = distributed.Votes(mesh)
        heart = heartbeats.Heart(
            directory,
            place=(jax.process_index(), jax.process_count()),
            step=start,
            steps=stage.steps,
            every=config.log.heartbeat,
        )
        with writer, progress, heart, interrupts.Notice() as notice:
            for step in range(start, stage.steps):
                clock = time.perf_counter()
                key = jax.random.fold_in(seed_key, step)
                batch = next(stage.feed)
                heart.does(heartbeats.COMPUTING)
                state, metrics, timings = stage.step(state, batch, key)
                metrics = {name: float(value) for name, value in metrics.items()}
                metrics |= {n: float(rate(step)) for n, rate in stage.rates.items()}
                timings['time/step'] = time.perf_counter() - clock
                _watch_compilation(compiled, step - start, directory)
                if step % config.log.every == 0 or step + 1 == stage.steps:
                    writer.write(step + 1, metrics)
                    writer.write_timings(step + 1, timings)
                progress.update(step + 1, stage.glance(metrics), timings)
                bad = round(metrics['train/bad_steps'])
                finite = finite if bad else step + 1
                if bad >= config.max_bad_steps:
                    raise _not_finite(step + 1, bad, finite, checkpoints, directory)
                stop, due = votes.cast(notice.given, interval.due)
                due = due or (step + 1) % config.checkpoint.every == 0
                done = step + 1 == stage.steps
                heart.does(heartbeats.SAVING)
                if not bad and (done or due or stop):
                    checkpoints.save(step + 1, state, stage.feed.position())
                    interval.restart()
                heart.done(step + 1)
                compiled.reset()
                if stop and not done:
                    _stop(step + 1, stage.steps, checkpoints, directory)

        # ---- Save -----------------------------------------------------------------
        found = stage.evaluate(state)
        stage.export(state, directory / 'model')
    if first:
        _summarize(config, stage, directory, found, time.monotonic() - begun)
    # What the next stage reads is written.
    distributed.barrier(f'{config.stage} is done')
    return True


def _watch_compilation(compiled: compilation.Counter, steps: int, where: Any) -> None:
    """Says what the first step compiled, and warns of anything compiled later."""
    if steps == 0:
        log.info(
            '%s: compiled %s in %.1f s',
            where,
            _programs(compiled.programs),
            compiled.seconds,
        )
    elif compiled.programs:
        log.warning('%s: compiled %s again', where, _programs(compiled.programs))


def _programs(count: int) -> str:
    return f'{count} program{"s" * (count != 1)}'


def _stop(step: int, steps: int, checkpoints, directory: pathlib.Path) -> NoReturn:
    """Ends a run that was asked to, by SIGTERM in one of its processes."""
    checkpoints.wait()
    saved = checkpoints.steps()
    log.warning(
        '%s: stopped by SIGTERM after step %d of %d; %s. Start the same command again '
        'to go on.',
        *(directory, step, steps),
        f'the checkpoint of step {saved[-1]} is saved' if saved else 'nothing is saved',
    )
    distributed.barrier('stopped')
    raise SystemExit(distributed.STOPPED)


def _not_finite(step: int, bad: int, finite: int, checkpoints, directory) -> RunError:
    """What ends a run whose updates were skipped too many times in a row.

    A checkpoint is good if a step from it had finite gradients. That of the last such
    step holds the parameters whose gradients are not.
    """
    checkpoints.wait()
    steps = checkpoints.steps()
    good = [saved for saved in steps if saved < finite]
    where = directory / directories.CHECKPOINTS
    if good:
        last = f'the last good checkpoint is {where}/{good[-1]}'
    else:
        last = 'there is no good checkpoint yet'
    if good and good[-1] != steps[-1]:
        last += f', remove {where}/{steps[-1]} to go back to it'
    return RunError(
        f'step {step}: {bad} updates in a row had non-finite gradients and were '
        f'skipped; {last}. Lower the learning rate, and go on with '
        '--config.if_exists=resume or start anew with --config.if_exists=overwrite.'
    )


def _summarize(config, stage, directory: pathlib.Path, found, seconds: float) -> None:
    """Writes summary.json, the mark of a finished stage, in one piece."""
    rows = metrics_lib.read(directory / metrics_lib.METRICS)
    summary = {
        'stage': config.stage,
        'seed': config.seed,
        'seconds': round(seconds, 1),
        'steps': stage.steps,
        'metrics': {name.removeprefix('eval/'): value for name, value in found.items()},
        'data': dict(stage.data),
    } | stage.summarize(rows)
    metrics_lib.write_json(directory / directories.SUMMARY, summary)
    shown = ''.join(f', {name} {value:.3f}' for name, value in found.items())
    log.info('%s: done in %.0f s%s', directory, seconds, shown)


if __name__ == '__main__':
    main()
