"""What a run shows in the terminal: its log, progress and tables."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import logging
import math
import os
import sys
import time
from types import TracebackType
from typing import Literal, Self

import rich.box
import rich.console
import rich.measure
import rich.progress
import rich.table

TRACEBACK = 'BEAVER_JAX_TRACEBACK'


def show_log(process: int = 0) -> None:
    """Prints this package's log, one plain line a message, and others' warnings.

    Libraries set up handlers of their own; this package's messages bypass them.
    Orbax logs every error with its traceback, several times, before it raises it, and
    leaves others of a broken checkpoint to asyncio.

    Args:
      process: Which of several processes this is. All say the same, and so those after
        the first only tell of errors.
    """
    for library in ('absl', 'asyncio'):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    handler = logging.StreamHandler()
    name = f'process {process}: ' if process else ''
    handler.setFormatter(logging.Formatter(f'{name}%(message)s'))
    logger = logging.getLogger('beaver_jax')
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.ERROR if process else logging.INFO)


@contextlib.contextmanager
def errors_in_a_line(*kinds: type[Exception]) -> Iterator[None]:
    """Ends the program with one line for errors of these kinds, and for Ctrl-C.

    With BEAVER_JAX_TRACEBACK=1 in the environment they keep their traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        # Python then ends itself by SIGINT, without which a shell's loop would go on.
        sys.excepthook = _interrupted
        raise
    except kinds as error:
        if os.environ.get(TRACEBACK):
            raise
        sys.exit(f'Error: {error}')


def _interrupted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Tells of Ctrl-C in a line, where no traceback is asked for."""
    if issubclass(kind, KeyboardInterrupt) and not os.environ.get(TRACEBACK):
        print('Interrupted.', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        # Nobody reads on, as where Ctrl-C ended a `| tee`: a run does not end by that.
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class Progress:
    """A bar on a terminal; elsewhere a line every few seconds. A context manager."""

    def __init__(
        self,
        stage: str,
        total: int,
        *,
        start: int = 0,
        every: float = 5.0,
        console: rich.console.Console | None = None,
        enabled: bool = True,
    ):
        """Prepares the bar.

        Args:
          stage: Name before the bar.
          total: Steps of the stage.
          start: Steps done before, when the stage is resumed.
          every: Seconds between lines where there is no terminal.
          console: Where to print; standard output when None.
          enabled: False prints nothing, as in every process but the first.
        """
        self._stage, self._total = stage, total
        self._every, self._enabled = every, enabled
        self._console = console or _Console()
        # The first step compiles: what is left is judged by those after it.
        self._first: tuple[int, float] | None = None
        self._printed = -math.inf
        self._bar: rich.progress.Progress | None = None
        if enabled and self._console.is_terminal:
            self._bar = _bar(self._console)
            self._bar.add_task(stage, total=total, completed=start, note='')

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(
        self,
        step: int,
        headline: Mapping[str, float],
        timings: Mapping[str, float] | None = None,
    ) -> None:
        """Shows a step.

        Args:
          step: Steps done.
          headline: The few metrics worth a glance, e.g. {'loss': 0.5}.
          timings: Seconds by name (time/step and its parts time/rollout, …) and
            tokens_per_second; others are not shown.
        """
        note = ' · '.join(
            [f'{name} {number(float(value))}' for name, value in headline.items()]
            + _pace(timings or {})
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, note=note)
        elif self._enabled:
            self._line(step, note)

    def _line(self, step: int, note: str) -> None:
        now = time.monotonic()
        first_step, first_time = self._first = self._first or (step, now)
        if now - self._printed < self._every and step < self._total:
            return
        self._printed = now
        parts = [f'{self._stage} {step}/{self._total}', note]
        if step > first_step:
            pace = (now - first_time) / (step - first_step)
            left = round(pace * (self._total - step))
            parts.append(f'{left // 60}:{left % 60:02} left')
        self._console.print(
            ' · '.join(filter(None, parts)),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _bar(console: rich.console.Console) -> rich.progress.Progress:
    note = rich.table.Column(ratio=1, no_wrap=True, overflow='ellipsis')
    return rich.progress.Progress(
        rich.progress.TextColumn('[bold]{task.description}'),
        rich.progress.BarColumn(bar_width=10),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(compact=True),
        rich.progress.TextColumn('{task.fields[note]}', table_column=note),
        console=console,
        expand=True,
    )


def _pace(timings: Mapping[str, float]) -> list[str]:
    """E.g. ['1,200 tokens/s', '1.05 s/step (rollout 0.40)'], as far as it is known."""
    pace = []
    if 'tokens_per_second' in timings:
        pace.append(f'{timings["tokens_per_second"]:,.0f} tokens/s')
    if 'time/step' in timings:
        parts = ', '.join(
            f'{name.removeprefix("time/")} {seconds:.2f}'
            for name, seconds in timings.items()
            if name.startswith('time/') and name != 'time/step'
        )
        whole = f'{timings["time/step"]:.2f} s/step'
        pace.append(f'{whole} ({parts})' if parts else whole)
    return pace


def number(value: float | None) -> str:
    """Formats for a reader: '0.512', '31.2', '1,024', '2.0e-05', and '-' for None."""
    if value is None:
        return '-'
    if isinstance(value, int):
        return f'{value:,}'
    size = abs(value)
    if 0 < size < 5e-4:
        return f'{value:.1e}'
    return f'{value:,.{3 if size < 10 else 1 if size < 1000 else 0}f}'


def counted(count: int, noun: str) -> str:
    """E.g. '1 prompt', '1,024 prompts'."""
    return f'{count:,} {noun}{"" if count == 1 else "s"}'


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | float | None]],
    *,
    console: rich.console.Console | None = None,
) -> None:
    """Prints a table: the first column names the rows, the others hold figures.

    Args:
      title: Above the table.
      columns: Headings.
      rows: Texts as they are; numbers go through `number`.
      console: Where to print; standard output when None.
    """
    grid = rich.table.Table(
        title=title, box=rich.box.SIMPLE, title_justify='left', padding=(0, 1, 0, 0)
    )
    cells = [
        [cell if isinstance(cell, str) else number(cell) for cell in row]
        for row in rows
    ]
    for index, column in enumerate(columns):
        justify: Literal['left', 'right'] = 'right' if index else 'left'
        # Headings may go over several lines; neither a word nor a figure is cut.
        lines = (line for row in cells for line in row[index].split('\n'))
        texts = [*column.split(), *lines]
        width = max(map(len, texts), default=0)
        grid.add_column(column, justify=justify, no_wrap=not index, min_width=width)
    for row in cells:
        grid.add_row(*row)
    console = console or rich.console.Console()
    least = rich.measure.Measurement.get(console, console.options, grid).minimum
    console.print(grid, width=max(console.width, least), crop=False)
