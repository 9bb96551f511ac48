"""Trains a stage, and first the missing stages that it starts from.

    python -m beaver_jax.train --config=configs/ppo_lag.py

A run that was killed goes on from its last checkpoint when it is started again. A
stage of reinforcement learning ends with an evaluation and a report.
"""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import json
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
from beaver_jax import journal as journal_lib
from beaver_jax import machine
from beaver_jax import metrics as metrics_lib
from beaver_jax import report
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import terminal
from beaver_jax.stages import directories
from beaver_jax.stages import inputs

log = logging.getLogger('beaver_jax.train')  # also when it is __main__
RunError = journal_lib.RunError


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
    evaluate.run(evaluation, mesh)
    trained = directories.directory(config) / directories.SUMMARY
    results = directories.directory(evaluation) / directories.RESULTS
    reported = pathlib.Path(config.run) / report.SUMMARY
    is_new = all(_is_newer(reported, than) for than in (trained, results))
    if jax.process_index() == 0 and not is_new:
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
    stage_begun = time.monotonic()
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
        contextlib.ExitStack() as alive,
        checkpoint.Checkpoints(
            directory / directories.CHECKPOINTS,
            keep=config.checkpoint.keep,
            best=_best(config),
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
        journal = journal_lib.Journal(config, stage, writer, progress, start)
        if stage.bounds is not None and start:
            journal.recall(distributed.by_first(_rows, directory))
        seed_key = jax.random.key(config.seed)
        under_way: collections.deque[Any] = collections.deque()
        interval = interrupts.Interval(config.checkpoint.minutes)
        votes = distributed.Votes(mesh, late=True)
        # It outlives the loop: evaluation and export may be killed as well.
        heart = alive.enter_context(
            heartbeats.Heart(
                directory,
                place=(jax.process_index(), jax.process_count()),
                step=start,
                steps=stage.steps,
                every=config.log.heartbeat,
            )
        )
        with (
            writer,
            progress,
            interrupts.Notice(tells=first) as notice,
            machine.Watch() as watch,
        ):
            for step in range(start, stage.steps):
                begun = time.perf_counter()
                key = jax.random.fold_in(seed_key, step)
                batch = next(stage.feed)
                if step == start:
                    heart.does(heartbeats.COMPILING)
                    _compile(stage, (state, batch, key), directory)
                    begun = time.perf_counter()
                heart.does(heartbeats.COMPUTING)
                state, metrics, phases = stage.step(state, batch, key)
                under_way.append((step, metrics, watch.step(begun, phases, metrics)))
                late = compiled.names[:] if step > start else []
                stop, asked = votes.cast(notice.given, interval.due)
                # The device works on while the last step's metrics are looked at. A
                # checkpoint needs this one's: a bad state is not saved, and no state
                # before its metrics.
                done = step + 1 == stage.steps
                due = done or stop or asked or (step + 1) % config.checkpoint.every == 0
                while len(under_way) > (not due):
                    journal.write(*under_way.popleft())
                    if journal.trouble:
                        raise journal_lib.ended(journal, checkpoints, directory)
                if due and not journal.bad:
                    heart.does(heartbeats.SAVING)
                    position = stage.feed.position()
                    checkpoints.save(step + 1, state, position, journal.found)
                    interval.restart()
                    votes.granted(1)
                heart.done(step + 1)
                _compiled_late(late, step + 1, config.late_compilation, directory)
                compiled.reset()
                if stop and not done:
                    _stop(notice, step + 1, stage.steps, checkpoints, directory)
        # Heard in the last step, after its vote: what follows may take long.
        if distributed.any_process(notice.given):
            _stop(notice, stage.steps, stage.steps, checkpoints, directory)

        # ---- Save -----------------------------------------------------------------
        heart.does(heartbeats.FINISHING)
        found = stage.evaluate(state)
        stage.export(state, directory / 'model')
    if first:
        seconds = round(time.monotonic() - stage_begun, 1)
        took = {'seconds': seconds, 'memory': _memory(directory)}
        _summarize(config, stage, directory, found, took)
    # What the next stage reads is written.
    distributed.barrier(f'{config.stage} is done')
    return True


def _compile(stage, arguments, directory: pathlib.Path) -> None:
    """Compiles a stage's programs, before its first step, and says how long it took."""
    ahead = stage.compile(*arguments)
    if ahead:
        took = ', '.join(f'{name} {one.seconds:.1f} s' for name, one in ahead.items())
        log.info('%s: compiled: %s', directory, took)
    # The last start may have no step left to compile for, and tells of them as well.
    if jax.process_index() == 0:
        needed = {name: one.bytes for name, one in ahead.items()}
        metrics_lib.write_json(directory / directories.PROGRAMS, needed)


def _compiled_late(names: Sequence[str], step: int, then: str, where: Any) -> None:
    """Warns of what was compiled after the first step, or ends the run."""
    if not names or then == 'ignore':
        return
    found = f'step {step} compiled {", ".join(sorted(set(names)))} again'
    if then == 'error':
        raise RunError(
            f'{where}: {found}, though every shape should be known by now. What was '
            'saved is whole; go on with --config.late_compilation=warn.'
        )
    log.warning('%s: %s', where, found)


def _stop(notice, step: int, steps: int, checkpoints, directory) -> NoReturn:
    """Ends a run that was asked to, by a signal to one of its processes."""
    checkpoints.wait()
    saved = checkpoints.steps()
    log.warning(
        '%s: stopped by a signal after step %d of %d; %s. Start the same command '
        'again to go on.',
        *(directory, step, steps),
        f'the checkpoint of step {saved[-1]} is saved' if saved else 'nothing is saved',
    )
    distributed.barrier('stopped')
    if notice.by_key and jax.process_count() == 1:
        raise KeyboardInterrupt
    raise SystemExit(distributed.STOPPED)


def _rows(directory: pathlib.Path) -> list[dict[str, float]]:
    """The rows that are written of a run that goes on."""
    file = directory / metrics_lib.METRICS
    return metrics_lib.read(file) if file.is_file() else []


def _best(config: ml_collections.ConfigDict) -> checkpoint.Best:
    section = config.checkpoint
    return checkpoint.Best(section.best, section.metric, section.mode)


def _memory(directory: pathlib.Path) -> dict[str, Any]:
    """The most memory until now, beside what each program needs by XLA's plan."""
    peak = machine.peak_memory()
    file = directory / directories.PROGRAMS
    programs = json.loads(file.read_text()) if file.is_file() else {}
    ((kind, size),) = peak.items()
    log.info(
        '%s: peak memory %.2f GB (%s)%s',
        directory,
        size / 1e9,
        kind.split('_')[1],
        ''.join(
            f', {name} needs {one / 1e9:.2f}' for name, one in programs.items() if one
        ),
    )
    return peak | {'program_bytes': programs}


def _summarize(config, stage, directory: pathlib.Path, found, took) -> None:
    """Writes summary.json, the mark of a finished stage, in one piece."""
    rows = metrics_lib.read(directory / metrics_lib.METRICS)
    summary = {
        'stage': config.stage,
        'seed': config.seed,
        'steps': stage.steps,
        'metrics': {name.removeprefix('eval/'): value for name, value in found.items()},
        'data': dict(stage.data),
        **took,
        **stage.summarize(rows),
    }
    metrics_lib.write_json(directory / directories.SUMMARY, summary)
    shown = ''.join(f', {name} {value:.3f}' for name, value in found.items())
    log.info('%s: done in %.0f s%s', directory, took['seconds'], shown)


if __name__ == '__main__':
    main()
