"""Writers of what a run measures; they know no algorithm.

`metrics.jsonl` holds what a run computed, `timings.jsonl` what the clock said of it:
a run that was killed and resumed has the same `metrics.jsonl` as one left alone, byte
for byte. JSON has no NaN and no infinity; they are written as the strings "NaN",
"Infinity" and "-Infinity", which `read` and Python's `float` turn back into numbers
(null would not tell an overflow from an undefined value).
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import importlib
import json
import math
import os
import pathlib
import time
from typing import Any, Self
import uuid

METRICS = 'metrics.jsonl'
TIMINGS = 'timings.jsonl'
_DISK = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EROFS,
)


class Writer:
    """Writes one run's metrics: JSON lines, and TensorBoard and wandb where asked.

    Use it as a context manager. Write the metrics of a step before its checkpoint is
    saved, so that a restored step is never without them.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        resume_step: int | None,
        tensorboard: bool,
        wandb: str | None,
        enabled: bool = True,
    ):
        """Opens the files, cut back to the step that the run resumes from.

        Args:
          directory: Where the files go; made where it is missing.
          resume_step: The state after this many steps was restored: later lines are
            removed. None starts the files anew.
          tensorboard: Also writes event files into the directory.
          wandb: Project to log to, or None.
          enabled: False writes nothing, as in every process but the first.

        Raises:
          ImportError: A wandb project was given and wandb is not installed.
          OSError: The directory cannot be written.
          ValueError: A line of an earlier run is not JSON.
        """
        self._directory = pathlib.Path(directory)
        self._enabled = enabled
        self._board: Any = None
        self._wandb: Any = None
        if not enabled:
            return
        with explained(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, TIMINGS):
                _rewind(self._directory / name, resume_step)
            if tensorboard:
                self._board = _start_board(self._directory, resume_step)
        if wandb is not None:
            self._wandb = _start_wandb(wandb, self._directory, resume_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        # What ended the run counts, not that its last events are lost as well.
        with contextlib.suppress(*([OSError] if kind else [])):
            self.close()

    def close(self) -> None:
        """Ends the event file and the wandb run."""
        if self._board is not None:
            with explained(self._directory):
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._board = self._wandb = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends {"step": step, name: value, …} to metrics.jsonl, names sorted.

        Args:
          step: Steps taken so far.
          values: Scalars by name, e.g. {'train/loss': 0.5}.

        Raises:
          OSError: The file cannot be written.
          ValueError: A value is no scalar.
        """
        self._append(METRICS, step, values)

    def write_timings(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line to timings.jsonl; everything as in `write`."""
        self._append(TIMINGS, step, values)

    def _append(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        if not self._enabled:
            return
        scalars = {key: _scalar(key, step, values[key]) for key in sorted(values)}
        line = json.dumps(jsonable({'step': int(step)} | scalars), allow_nan=False)
        path = self._directory / name
        # Opened and closed for each line: nothing is left in a buffer by a kill.
        with explained(path), path.open('ab') as file:
            file.write(line.encode() + b'\n')
        if self._board is not None:
            with explained(self._directory):
                self._board.write_event(_event(step, scalars))
                self._board.flush()
        if self._wandb is not None:
            self._wandb.log(scalars, step=int(step))


class DiskError(OSError):
    """A file that cannot be written, and the way out."""


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the way out to errors of a full or protected disk.

    Args:
      path: To name where the error names no file.

    Raises:
      DiskError: In their place.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskError) or error.errno not in _DISK:
            raise
        raise DiskError(
            error.errno,
            f'{error.strerror} (free space or make it writable, then start the same '
            f'command again: the run resumes)',
            str(error.filename or path),
        ) from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file in one piece: a kill leaves the old file or the new one."""
    write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + '\n')


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file in one piece."""
    unfinished = path.with_name(path.name + '.partial')
    unfinished.write_text(text, encoding='utf-8')
    unfinished.replace(path)


def jsonable(value: Any) -> Any:
    """Copies nested dicts and lists, with strings for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
    return value


def read(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Reads metrics.jsonl or timings.jsonl; a half-written last line is left out.

    Raises:
      ValueError: A line is not JSON, or has no step.
    """
    return [
        {name: float(value) for name, value in row.items()}
        for _, row in _lines(pathlib.Path(path))
    ]


def _lines(path: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields each line (without its end) and what is in it."""
    lines = [line for line in path.read_bytes().split(b'\n') if line.strip()]
    for index, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step = row['step'] if isinstance(row, dict) else None
        except (ValueError, KeyError):
            step = None
        if isinstance(step, int):
            yield line, row
        elif index < len(lines):  # a kill can cut the last line only
            raise ValueError(
                f'{path}, line {index} is no JSON object with a whole number "step": '
                f'{line[:80]!r}; remove the line.'
            )


def _rewind(path: pathlib.Path, step: int | None) -> None:
    """Removes the lines after a step; all of them when step is None."""
    if step is None or not path.exists():
        path.unlink(missing_ok=True)
        return
    kept = [line + b'\n' for line, row in _lines(path) if row['step'] <= step]
    shorter = path.with_name(path.name + '.tmp')
    with shorter.open('wb') as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    shorter.replace(path)  # atomic: a kill leaves the old file or the new one


def _scalar(name: str, step: int, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{name} at step {step} is no scalar: {value!r:.80}; '
            f'take a mean, or give each element a name.'
        ) from error


def _start_board(directory: pathlib.Path, resume_step: int | None) -> Any:
    # Slow to import, and who reads a run never needs it.
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2

    # The synchronous writer: SummaryWriter's thread loses what a kill finds in its
    # queue, and once a full disk has ended it, waits for ever.
    first = 0 if resume_step is None else resume_step + 1
    board = event_file_writer.EventsWriter(str(directory / 'events'), f'.{first}')
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    # Tells TensorBoard to forget the steps that are to come again.
    board.write_event(event_pb2.Event(step=first, session_log=start))
    return board


def _event(step: int, scalars: Mapping[str, float]) -> Any:
    from tensorboardX.proto import event_pb2
    from tensorboardX.proto import summary_pb2

    values = [
        summary_pb2.Summary.Value(tag=name, simple_value=value)
        for name, value in scalars.items()
    ]
    summary = summary_pb2.Summary(value=values)
    return event_pb2.Event(wall_time=time.time(), step=int(step), summary=summary)


def _start_wandb(project: str, directory: pathlib.Path, resume_step: int | None) -> Any:
    try:
        wandb = importlib.import_module('wandb')
    except ImportError as error:
        raise ImportError(
            f'logging to the wandb project {project!r} needs wandb; '
            f"pip install 'beaver_jax[wandb]', or leave the project out."
        ) from error
    file = directory / 'wandb_id'  # a resumed run goes on in the same wandb run
    if resume_step is None or not file.exists():
        file.write_text(uuid.uuid4().hex)
    return wandb.init(
        project=project,
        name='/'.join(directory.parts[-2:]),
        dir=str(directory),
        id=file.read_text().strip(),
        resume='allow',
    )
