"""Reports a run, or compares several, on one page that needs nothing beside it.

    python -m beaver_jax.report runs/tiny
    python -m beaver_jax.report runs/tiny runs/loose
    python -m beaver_jax.report strict=runs/a/tiny loose=runs/b/tiny --out comparison

One run is reported in RUN/report, several in `report` beside them.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from beaver_jax import layout
from beaver_jax import report
from beaver_jax import terminal
from beaver_jax.report import comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Reports the runs that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m beaver_jax.report',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'runs', nargs='+', metavar='[NAME=]RUN', help='a directory such as runs/tiny'
    )
    parser.add_argument(
        '--out', type=pathlib.Path, metavar='DIRECTORY', help='where to write instead'
    )
    arguments = parser.parse_args(argv)
    with terminal.errors_in_a_line(ValueError, OSError):
        written = _report(arguments.runs, arguments.out)
    print(f'The whole report: {written / "index.html"}')
    return 0


def _report(given: Sequence[str], out: pathlib.Path | None) -> pathlib.Path:
    """Writes and prints a report, and returns its directory."""
    runs = {name: pathlib.Path(path) for name, path in layout.named(given).items()}
    paths = [*runs.values()]
    if len(runs) == 1:
        report.show(report.write(paths[0], out))
        return out or paths[0] / 'report'
    out = out or comparison.directory(paths)
    report.show_comparison(report.compare(runs, out))
    return out


if __name__ == '__main__':
    sys.exit(main())
