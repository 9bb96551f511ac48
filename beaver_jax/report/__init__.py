"""The report of a run: figures, plots, and one page that holds it all."""

import os
import pathlib
from typing import Any

from beaver_jax import metrics
from beaver_jax import terminal
from beaver_jax.report import files
from beaver_jax.report import judged
from beaver_jax.report import summary as summaries

SUMMARY = 'report/summary.json'  # of a run; written last


def write(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes RUN/report: summary.json, the plots as PNG files, index.html.

    Args:
      run: A run directory, runs/<name>; its stages need not all have run or ended.

    Returns:
      The summary; see `summary.summarize`.

    Raises:
      FileNotFoundError: There is no such run.
      ValueError: It holds nothing to report, or a damaged file.
    """
    # Matplotlib is slow to import, and most commands that may report never do.
    from beaver_jax.report import charts
    from beaver_jax.report import page

    read = files.load(pathlib.Path(run))
    summary = metrics.jsonable(summaries.summarize(read))
    drawn = charts.draw(read)
    rendered = page.render(read, summary, drawn)
    directory = read.path / 'report'
    directory.mkdir(exist_ok=True)
    for chart in drawn:
        charts.save(chart, directory)
    (directory / 'index.html').write_text(rendered, encoding='utf-8')
    metrics.write_json(read.path / SUMMARY, summary)
    return summary


def show(summary: dict[str, Any]) -> None:
    """Prints a summary's tables."""
    for table in [*summaries.tables(summary), *judged.tables(summary)]:
        terminal.table(table.title, table.columns, table.rows)
