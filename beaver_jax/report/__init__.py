"""The report of a run, or of several: figures, plots, and a page that holds it all."""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import TYPE_CHECKING, Any

from beaver_jax import layout
from beaver_jax import metrics
from beaver_jax import terminal
from beaver_jax.report import comparison
from beaver_jax.report import files
from beaver_jax.report import judged
from beaver_jax.report import summary as summaries

if TYPE_CHECKING:
    from beaver_jax.report import plots

_OUT = 'name another with --out'
SUMMARY = f'{layout.REPORT}/{layout.SUMMARY}'  # of a run; written last


def write(
    run: str | os.PathLike[str], out: pathlib.Path | None = None
) -> dict[str, Any]:
    """Writes RUN/report: index.html, the plots as PNG files, summary.json.

    Args:
      run: A run directory, runs/<name>; its stages need not all have run or ended.
      out: Where to write instead.

    Returns:
      The summary; see `summary.summarize`.

    Raises:
      FileNotFoundError: There is no such run.
      ValueError: It holds nothing to report, or a damaged file; or something else is
        where the report goes.
    """
    # Matplotlib is slow to import, and most commands that may report never do.
    from beaver_jax.report import charts
    from beaver_jax.report import page

    read = files.load(pathlib.Path(run))
    if out is None:
        directory = _free(read.path / layout.REPORT, 'move it away')
    else:
        directory = _free(out)
    summary = metrics.jsonable(summaries.summarize(read))
    drawn = charts.draw(read)
    _save(directory, page.render(read, summary, drawn), drawn, summary)
    return summary


def compare(runs: Mapping[str, pathlib.Path], out: pathlib.Path) -> dict[str, Any]:
    """Writes a comparison of runs, likewise.

    Args:
      runs: Run directories by name, two or more.
      out: The directory to write.

    Returns:
      The summary; see `comparison.summarize`.

    Raises:
      FileNotFoundError: There is no such run.
      ValueError: One holds nothing to report, or a damaged file; or `out` holds
        something else.
    """
    from beaver_jax.report import comparison_page
    from beaver_jax.report import overlays

    read = {name: files.load(path) for name, path in runs.items()}
    directory = _free(out)
    summary = metrics.jsonable(comparison.summarize(read))
    drawn = overlays.draw(read)
    _save(directory, comparison_page.render(read, summary, drawn), drawn, summary)
    return summary


def _free(directory: pathlib.Path, way: str = _OUT) -> pathlib.Path:
    """A directory, if nothing stands there but maybe an earlier report.

    Args:
      directory: To be written.
      way: What to do otherwise.

    Raises:
      ValueError: Something else does.
    """
    from beaver_jax.report import markup

    page = directory / layout.PAGE
    if page.is_file() and (
        (directory / layout.SUMMARY).is_file()
        or markup.GENERATOR in page.read_text(errors='replace')[:1000]
    ):
        return directory
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f'{directory} is there and is no report; {way}.')
    return directory


def _save(
    directory: pathlib.Path,
    page: str,
    drawn: 'Sequence[plots.Chart]',
    summary: Mapping[str, Any],
) -> None:
    """Writes the page first, by which it is known as a report; the summary last."""
    from beaver_jax.report import plots

    directory.mkdir(parents=True, exist_ok=True)
    metrics.write_text(directory / layout.PAGE, page)
    for chart in drawn:
        plots.save(chart, directory)
    metrics.write_json(directory / layout.SUMMARY, summary)


def show(summary: Mapping[str, Any]) -> None:
    """Prints the tables of a run's summary."""
    for table in [*summaries.tables(summary), *judged.tables(summary)]:
        terminal.table(table.title, table.columns, table.rows)


def show_comparison(summary: Mapping[str, Any]) -> None:
    """Prints the tables of a comparison's summary, and what to know before."""
    for note in summary['notes']:
        print(note)
    for table in (*comparison.policies(summary), comparison.multipliers(summary)):
        if table.rows:
            terminal.table(table.title, table.columns, table.rows)
    print(comparison.INTERVALS)
