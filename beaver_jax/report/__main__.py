"""python -m beaver_jax.report RUN: writes RUN/report and prints its tables."""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from beaver_jax import report


def main(argv: Sequence[str] | None = None) -> int:
    """Reports the run that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m beaver_jax.report')
    parser.add_argument('run', type=pathlib.Path, help='its directory, runs/NAME')
    run = parser.parse_args(argv).run
    try:
        report.show(report.write(run))
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'The whole report: {run / "report" / "index.html"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
