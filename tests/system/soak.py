"""A run under faults must end as one that was left alone, bit for bit.

    python -m tests.system.soak --minutes=60

PPO-Lagrangian with models of a few thousand parameters, in two processes, is killed,
asked to end, robbed of a process, of its rows and of space, and finds its checkpoints
broken; each time the same command is started again, and nobody mends anything. Writes
summary.json with what was tried, survived and lost, and ends with 1 unless all faults
were survived and the results are the same.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import random
import shutil
import sys
import time
from typing import Any

from beaver_jax import metrics
from tests import micro
from tests.system import faults

STEPS = 40  # of one run
ALL = {*faults.ANY_MOMENT, *faults.LATER}
STAGE = {
    'iterations': STEPS,
    'checkpoint.keep': 3,
    'checkpoint.every': 3,
    'data.test_share': 0.5,
    'mesh.data': 2,
    'mesh.fsdp': 1,
    'mesh.tensor': 1,
}


@dataclasses.dataclass
class Record:
    """A fault that happened.

    Attributes:
      kind: Its name.
      at: Steps done when it had ended the run.
      struck: The time, by a clock that starts anywhere.
      resumed: The step at which the next start began; None before there was one.
      seconds: From the fault to the first step that was new again.
      survived: The next start went on, or finished what there was to do.
    """

    kind: str
    at: int
    struck: float
    resumed: int | None = None
    seconds: float = 0.0
    survived: bool = False


class Soak:
    """Runs, and what has happened to them."""

    def __init__(self, out: pathlib.Path, seed: int, minutes: float):
        """Trains what runs start from, and one run that is left alone."""
        self.out, self.random = out, random.Random(seed)
        self.records: list[Record] = []
        self.equal: list[bool] = []
        self._configs = micro.write_configs(out / 'configs')
        self._inputs = self._train_inputs()
        begun = time.monotonic()
        self._alone = self._make_run(out / 'alone')
        self._alone.start()
        self._alone.expect(0, 'report/index.html')
        self._took = time.monotonic() - begun
        self._deadline = time.monotonic() + 60 * minutes
        self._untried: list[faults.Fault] = []
        self._tried: set[faults.Fault] = set()

    def _train_inputs(self) -> dict[str, str]:
        run = self.out / 'inputs'
        for stage in ('sft', 'reward', 'cost'):
            changes = {'run': run, 'steps': 1, **micro.ONE_DEVICE}
            argv = micro.arguments(self._configs, stage, changes)
            micro.finished(micro.process('beaver_jax.train', argv))
        rows = micro.rows(run, self.out / 'rows', count=32)
        return micro.models(run, 'sft', 'reward', 'cost') | rows

    def _make_run(self, directory: pathlib.Path) -> faults.Run:
        run, log = directory / 'run', directory.with_suffix('.log')
        changes = self._inputs | STAGE | {'run': run}
        argv = micro.arguments(self._configs, 'ppo_lag', changes)
        rows = pathlib.Path(self._inputs['data.prompts'])
        return faults.Run(argv, run, rows, log)

    def over(self) -> bool:
        """The time is."""
        return time.monotonic() > self._deadline

    def round(self, number: int) -> None:
        """One run under faults, until it is complete."""
        disk = self.out / f'round{number}'
        with faults.small_disk(disk) as is_small:
            run = self._make_run(disk)
            try:
                while self._strike(run, with_disk=is_small):
                    pass
                self.equal.append(same(run, self._alone))
            finally:
                run.kill()

    def _strike(self, run: faults.Run, *, with_disk: bool) -> bool:
        """Starts a run and lets a fault happen; False once it has come to its end."""
        run.start()
        fault = None if self.over() else self._draw(with_disk)
        if fault is None or not self._moment(run, fault):
            run.until(lambda: self._judge(run))
            run.expect(0, '')
            self._judge(run)
            return False
        self.records.append(Record(faults.name(fault), run.steps, time.monotonic()))
        self._tried.add(fault)
        show(f'{self.records[-1].kind} at step {run.steps} of {STEPS}')
        fault(run, self.random)
        self.records[-1].at = run.steps  # some more, where it took its time
        return True

    def _draw(self, with_disk: bool) -> faults.Fault:
        """Each kind once, in any order, then again."""
        if not self._untried:
            self._untried = sorted(ALL, key=faults.name)
            self.random.shuffle(self._untried)
        fault = self._untried.pop()
        if fault is faults.fill_disk and not with_disk:
            return self._draw(with_disk)
        return fault

    def _moment(self, run: faults.Run, fault: faults.Fault) -> bool:
        """Waits for a fault's moment; False where the run ends before."""
        if fault in faults.ANY_MOMENT and self.random.random() < 0.5:
            # While it starts, or whatever it does then.
            begun, wait = time.monotonic(), self.random.uniform(0, self._took / 2)
            return run.until(
                lambda: (
                    self._judge(run)
                    or (time.monotonic() - begun > wait and bool(run.processes()))
                )
            )
        more = run.steps + self.random.randrange(1, 5)
        return run.until(
            lambda: self._judge(run) or (run.steps >= more and len(run.checkpoints) > 1)
        )

    def _judge(self, run: faults.Run) -> bool:
        """Marks faults that are got over, by new steps or the end; False, always."""
        over, resumed = not run.goes_on(), run.resumed
        # Metrics may still come from a start that the fault has just ended.
        new = resumed is not None and run.steps
        for record in self.records:
            if not record.survived and (over or new > record.at):
                record.resumed = resumed
                record.seconds = round(time.monotonic() - record.struck, 1)
                record.survived = True
        return False

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        kinds = sorted({record.kind for record in self.records})
        return {
            'faults_tried': len(self.records),
            'faults_survived': sum(record.survived for record in self.records),
            'bitwise_equal': bool(self.equal) and all(self.equal),
            'runs': len(self.equal),
            'steps_a_run': STEPS,
            'kinds_not_tried': sorted(map(faults.name, ALL - self._tried)),
            'by_kind': {kind: _of_kind(self.records, kind) for kind in kinds},
            'faults': [dataclasses.asdict(record) for record in self.records],
        }


def _of_kind(records: list[Record], kind: str) -> dict[str, float]:
    mine = [record for record in records if record.kind == kind]
    lost = [record.at - record.resumed for record in mine if record.resumed is not None]
    return {
        'tried': len(mine),
        'survived': sum(record.survived for record in mine),
        'most_steps_lost': max(lost, default=0),
        'mean_seconds_lost': round(sum(x.seconds for x in mine) / len(mine), 1),
    }


def same(one: faults.Run, other: faults.Run) -> bool:
    """Metrics, model, and answers are the same bytes."""

    def results(run: faults.Run) -> Iterator[bytes]:
        evaluation = run.directory.with_name('evaluate')
        yield (run.directory / metrics.METRICS).read_bytes()
        yield (evaluation / 'samples.jsonl').read_bytes()
        yield (evaluation / 'results.json').read_bytes()
        yield from micro.weights(run.directory / 'model').values()

    return list(results(one)) == list(results(other))


def show(text: str) -> None:
    """Prints it with the time."""
    print(time.strftime('%H:%M:%S'), text, flush=True)


def soak(out: pathlib.Path, seed: int, minutes: float) -> dict[str, Any]:
    """Lets faults happen for some minutes, and then a last run end; the summary."""
    shutil.rmtree(out, ignore_errors=True)
    show('training a run that is left alone')
    trial = Soak(out, seed, minutes)
    try:
        while not trial.equal or not trial.over():
            trial.round(len(trial.equal) + 1)
    except faults.UnexpectedError as error:
        trial.equal.append(False)
        show(str(error))
    summary = trial.summary()
    metrics.write_json(out / 'summary.json', summary)
    return summary


def main() -> int:
    """Of the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=60)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/soak'))
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    os.environ.setdefault('XLA_FLAGS', '')
    summary = soak(options.out.resolve(), options.seed, options.minutes)
    print(json.dumps({k: v for k, v in summary.items() if k != 'faults'}, indent=2))
    survived = summary['faults_survived'] == summary['faults_tried'] > 0
    return 0 if survived and summary['bitwise_equal'] else 1


if __name__ == '__main__':
    sys.exit(main())
