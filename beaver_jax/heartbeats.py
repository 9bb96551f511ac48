"""Signs of life: where each process of a stage is, in small files that are rewritten.

They tell from outside, while a run goes on, whether it does, and who is waited for: in
one program over several processes the slowest sets the pace of all.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import logging
import pathlib
import platform
import statistics
import threading
import time
from typing import Self

from beaver_jax import metrics

log = logging.getLogger(__name__)
DIRECTORY = 'heartbeats'
READING, COMPILING, COMPUTING, SAVING, FINISHING, ENDED, FAILED = (
    'reading rows',
    'compiling',
    'computing',
    'saving',
    'finishing',  # evaluates and exports
    'ended',
    'failed',
)
LINE = 500  # characters of an error, at most
# Nobody waits for a process that does this.
_TOGETHER = (COMPUTING, FINISHING, ENDED, FAILED)


@dataclasses.dataclass
class Beat:
    """What a process says of itself.

    Attributes:
      process: Its number.
      processes: How many there are.
      host: Its machine.
      step: Steps done.
      steps: Of the stage.
      doing: What it does, since the time `since`.
      since: Unix time.
      time: Unix time at which this was written.
      every: Seconds between such times.
      own: Mean seconds of a step in which it is not part of the computation.
      pace: Mean seconds of a step.
      error: What it ended with, in a line, if it failed.
    """

    process: int
    processes: int
    host: str
    step: int
    steps: int
    doing: str
    since: float
    time: float
    every: float
    own: float = 0.0
    pace: float = 0.0
    error: str = ''

    @property
    def name(self) -> str:
        """Such as 'process 3 (host-3)'."""
        return f'process {self.process} ({self.host})'

    def silent(self, now: float) -> bool:
        """It has missed several times at which it should have written."""
        over = self.doing in (ENDED, FAILED)
        return not over and now - self.time > 3 * self.every + 10


class Heart:
    """Writes a process's beats from a thread. A context manager."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        place: tuple[int, int],
        step: int,
        steps: int,
        every: float,
    ):
        """Prepares the first beat.

        Args:
          directory: Of the stage.
          place: This process, and how many there are. The first one also warns of the
            others.
          step: Steps done.
          steps: Of the stage.
          every: Seconds between beats; 0 for none.
        """
        self._directory = directory / DIRECTORY
        now = time.time()
        self._beat = Beat(
            *place, platform.node(), step, steps, READING, now, now, every
        )
        self._spent = {READING: 0.0, COMPUTING: 0.0, SAVING: 0.0}
        self._counted = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        if self._beat.every:
            with contextlib.suppress(OSError):  # `metrics` tells of a full disk
                self._directory.mkdir(parents=True, exist_ok=True)
            if not self._beat.process:
                self._forget_others()
            self._write()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        *unused: object,
    ) -> None:
        stops = (SystemExit, KeyboardInterrupt)
        failed = kind is not None and not issubclass(kind, stops)
        if kind is not None and failed:
            line = next(iter(str(error).splitlines()), '') or kind.__name__
            self._beat = dataclasses.replace(self._beat, error=line[:LINE])
        self.does(FAILED if failed else ENDED)
        self._over.set()
        if self._beat.every:
            self._thread.join()
            self._write()

    def does(self, what: str) -> None:
        """The process begins something else."""
        now = time.time()
        if self._beat.doing in self._spent:
            self._spent[self._beat.doing] += now - self._beat.since
        self._beat = dataclasses.replace(self._beat, doing=what, since=now)

    def done(self, step: int) -> None:
        """A step is done. The first compiles, and does not count."""
        self.does(READING)
        if self._counted == 0:
            self._spent = dict.fromkeys(self._spent, 0.0)
        count = max(self._counted, 1)
        self._counted += 1
        whole = sum(self._spent.values())
        own = whole - self._spent[COMPUTING]
        self._beat = dataclasses.replace(
            self._beat, step=step, own=own / count, pace=whole / count
        )

    def _go_on(self) -> None:
        while not self._over.wait(self._beat.every):
            self._write()
            if not self._beat.process and self._beat.processes > 1:
                self._warn()

    def _write(self) -> None:
        beat = dataclasses.replace(self._beat, time=time.time())
        with contextlib.suppress(OSError):
            metrics.write_json(
                self._directory / f'{beat.process:05}.json', dataclasses.asdict(beat)
            )

    def _warn(self) -> None:
        found = concerns(read(self._directory.parent), time.time())
        for key, text in found.items():
            if key not in self._said:
                log.warning('%s: %s', self._directory.parent, text)
        # What has passed is told again when it comes again.
        self._said = set(found)

    def _forget_others(self) -> None:
        """Removes beats of more processes than there are now."""
        for file in self._directory.glob('*.json'):
            if file.stem.isdecimal() and int(file.stem) >= self._beat.processes:
                with contextlib.suppress(OSError):
                    file.unlink()


def read(directory: pathlib.Path, since: float = 0) -> list[Beat]:
    """The last beats in a stage's directory, by process; without unreadable ones.

    Args:
      directory: Of the stage.
      since: Unix time; files that were last written before, by an earlier start, are
        left out.
    """
    found = []
    names = {field.name for field in dataclasses.fields(Beat)}
    for file in sorted((directory / DIRECTORY).glob('*.json')):
        with contextlib.suppress(OSError, ValueError, TypeError):
            if file.stat().st_mtime < since:
                continue
            values = json.loads(file.read_text())
            found.append(Beat(**{k: v for k, v in values.items() if k in names}))
    return found


def concerns(beats: Sequence[Beat], now: float) -> dict[str, str]:
    """What is wrong with processes, in a sentence each, by a key for its kind.

    Args:
      beats: Of all processes.
      now: Unix time.
    """
    found = {}
    for beat in beats:
        key, where = str(beat.process), f'at step {beat.step}, {beat.doing}'
        if beat.silent(now):
            found[f'{key} silent'] = (
                f'{beat.name} has not been heard of for {now - beat.time:.0f} s '
                f'({where})'
            )
        elif _keeps_waiting(beat, beats, now):
            found[f'{key} {beat.doing}'] = (
                f'{beat.name} has been {beat.doing} for {now - beat.since:.0f} s; '
                'the others wait for it'
            )
    own = [beat.own for beat in beats]
    if len(beats) > 1:
        slowest = max(beats, key=lambda beat: beat.own)
        usual = statistics.median_low(own)
        if slowest.own > 2 * usual and slowest.own > 0.1 * slowest.pace:
            found['slowest'] = (
                f'{slowest.name} is the slowest: of {slowest.pace:.2f} s of a step the '
                f'others wait {slowest.own - usual:.2f} s for its rows and files'
            )
    return found


def _keeps_waiting(beat: Beat, beats: Sequence[Beat], now: float) -> bool:
    waits = max(30.0, 10 * beat.pace, 3 * beat.every)
    others = [other for other in beats if other.process != beat.process]
    return (
        bool(others)
        and beat.doing not in _TOGETHER
        and now - beat.since > waits
        and all(other.doing == COMPUTING for other in others)
    )
