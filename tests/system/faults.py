"""Faults of a run over two processes, and the run that they befall."""

from collections.abc import Callable
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from beaver_jax import distributed
from beaver_jax import metrics
from tests import micro

RESUMED = re.compile(r'/ppo_lag: resumed after step (\d+) of')
COMPILED = '/ppo_lag: compiled'  # which comes after a checkpoint is read
STOPPED = re.compile(r'/ppo_lag: stopped by a signal after step (\d+) of')
SLOWEST = 600.0  # seconds in which a run must begin, or end


class UnexpectedError(AssertionError):
    """A run did what no fault explains."""


class Run:
    """PPO-Lagrangian as two processes, which can be started again and again.

    Attributes:
      directory: Of the stage.
      rows: The prompts' file.
    """

    def __init__(
        self, argv: list[str], run: pathlib.Path, rows: pathlib.Path, log: pathlib.Path
    ):
        """Nothing is started yet; what is printed will be in `log`."""
        self.directory, self.rows = run / 'ppo_lag', rows
        self._argv, self._log, self._read = argv, log, 0
        self._launcher: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts the command, always the same one."""
        self._read = self._log.stat().st_size if self._log.exists() else 0
        options = ['--processes=2', '--fake_devices=1']
        with self._log.open('a') as log:
            self._launcher = subprocess.Popen(
                [sys.executable, 'launch/local.py', *options, '--', *self._argv],
                cwd=micro.ROOT,
                env=os.environ | {'PYTHONPATH': str(micro.ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def printed(self) -> str:
        """Since the last start."""
        return self._log.read_bytes()[self._read :].decode(errors='replace')

    @property
    def steps(self) -> int:
        """Steps with metrics."""
        file = self.directory / metrics.METRICS
        return file.read_bytes().count(b'\n') if file.exists() else 0

    @property
    def checkpoints(self) -> list[pathlib.Path]:
        """Whole ones, the oldest first."""
        found = (self.directory / 'checkpoints').glob('*')
        return sorted(
            (x for x in found if x.name.isdecimal()), key=lambda x: int(x.name)
        )

    @property
    def resumed(self) -> int | None:
        """The step at which the last start began; None before it has."""
        printed = self.printed
        if found := RESUMED.search(printed):
            return int(found[1])
        return 0 if COMPILED in printed else None

    def goes_on(self) -> bool:
        """Processes run."""
        return self._launcher is not None and self._launcher.poll() is None

    def processes(self) -> list[int]:
        """Of Python, but the launcher's."""
        assert self._launcher is not None
        return micro.children(self._launcher.pid)

    def until(self, condition: Callable[[], bool], seconds: float = SLOWEST) -> bool:
        """Waits for something, or for the run's end; whether it came first."""
        deadline = time.monotonic() + seconds
        while self.goes_on():
            if condition():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return False

    def ended(self) -> int:
        """Waits for the end; the exit status."""
        assert self._launcher is not None
        try:
            return self._launcher.wait(SLOWEST)
        except subprocess.TimeoutExpired:
            raise UnexpectedError(f'The run does not end:\n{self.tail}') from None

    def kill(self) -> None:
        """Of the launcher and its processes nothing is left."""
        if not self.goes_on():
            return
        assert self._launcher is not None
        self.signal(signal.SIGKILL, *self.processes(), self._launcher.pid)

    def terminate(self) -> None:
        """Asks the launcher to end, which tells its processes."""
        assert self._launcher is not None
        self._launcher.terminate()

    def signal(self, number: int, *processes: int) -> None:
        """Sends a signal to those that are still there."""
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    @property
    def tail(self) -> str:
        """The last lines that were printed."""
        return '\n'.join(self.printed.splitlines()[-25:])

    def expect(self, code: int, said: str) -> None:
        """It ends by itself so, and says why."""
        found = self.ended()
        if found != code or said not in self.printed:
            raise UnexpectedError(
                f'Exit status {found}, not {code} with {said!r}:\n{self.tail}'
            )


# A fault happens to a run that goes on, and ends it; what it broke is then mended, if a
# run could not do that itself.
Fault = Callable[[Run, random.Random], None]


def kill_all(run: Run, random_: random.Random) -> None:
    """As when power fails."""
    run.kill()
    run.ended()


def kill_one(run: Run, random_: random.Random) -> None:
    """One of two processes is gone; the other must notice."""
    run.signal(signal.SIGKILL, *random_.sample(run.processes(), 1))
    if not run.ended():
        raise UnexpectedError(f'Nobody missed a process:\n{run.tail}')


def terminate_all(run: Run, random_: random.Random) -> None:
    """What a cluster sends before it takes machines back."""
    run.terminate()
    _expect_stop(run)


def terminate_one(run: Run, random_: random.Random) -> None:
    """The same, told to one process."""
    run.signal(signal.SIGTERM, *random_.sample(run.processes(), 1))
    _expect_stop(run)


def _expect_stop(run: Run) -> None:
    """It ends, and where it was told in its steps, no step is lost."""
    code, found = run.ended(), STOPPED.search(run.printed)
    if found is None:
        return
    newest = run.checkpoints[-1].name if run.checkpoints else None
    if code != distributed.STOPPED or newest != found[1]:
        raise UnexpectedError(f'Step {found[1]} was not saved:\n{run.tail}')


def truncate(run: Run, random_: random.Random) -> None:
    """A file of the newest checkpoint is cut short."""
    kill_all(run, random_)
    file = random_.choice(_files(run))
    file.write_bytes(file.read_bytes()[: random_.randrange(file.stat().st_size)])


def flip_bit(run: Run, random_: random.Random) -> None:
    """A bit of the newest checkpoint is another one."""
    kill_all(run, random_)
    file = random_.choice(_files(run))
    content = bytearray(file.read_bytes())
    content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    file.write_bytes(content)


def delete_half(run: Run, random_: random.Random) -> None:
    """Of the newest checkpoint half of the files are gone."""
    kill_all(run, random_)
    files = _files(run)
    for file in random_.sample(files, (len(files) + 1) // 2):
        file.unlink()


def fill_disk(run: Run, random_: random.Random) -> None:
    """The last byte of the disk is taken; later there is room again."""
    filler = run.directory / 'filler'
    with filler.open('wb', buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**20, 2**10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b'x' * size)
    run.expect(1, 'Error: ')
    filler.unlink()


def remove_rows(run: Run, random_: random.Random) -> None:
    """A file of rows is gone when a run starts again; later it is back."""
    kill_all(run, random_)
    away = run.rows.with_suffix('.away')
    run.rows.rename(away)
    run.start()
    run.expect(1, f"Error: config.data.prompts: No file '{run.rows}'")
    away.rename(run.rows)


def _files(run: Run) -> list[pathlib.Path]:
    newest = run.checkpoints[-1]
    return sorted(x for x in newest.rglob('*') if x.is_file() and x.stat().st_size)


# Those that may strike at any moment; the others when there are checkpoints to go back
# to.
ANY_MOMENT: list[Fault] = [kill_all, kill_one, terminate_all, terminate_one]
LATER: list[Fault] = [truncate, flip_bit, delete_half, fill_disk, remove_rows]


@contextlib.contextmanager
def small_disk(directory: pathlib.Path, megabytes: int = 256):
    """A file system of its own at a directory; yields whether that could be had."""
    directory.mkdir(parents=True)
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m', 'tmpfs']
    if shutil.which('mount') is None:
        yield False
        return
    mounted = not subprocess.run([*mount, directory], capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(['umount', '--lazy', directory], check=True)


def name(fault: Any) -> str:
    """Such as 'kill one'."""
    return fault.__name__.replace('_', ' ')
