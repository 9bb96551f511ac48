"""Says where a run is, while it goes on or afterwards.

    python -m beaver_jax.status runs/tiny
    python -m beaver_jax.status runs/tiny/ppo_lag --json
    python -m beaver_jax.status runs/tiny --watch 10

By stage: steps, rate and time left, the last metrics, checkpoints, and what is wrong:
a process that is silent or that the others wait for. Files are read, none is written.

Exit status: 0 all is well or done; 3 a stage has failed, is silent, was stopped before
its end, or waits for a process; 1 there is no such run; 2 the command line is wrong.
"""

import argparse
from collections.abc import Sequence
import json
import math
import pathlib
import sys
import time

from beaver_jax import status
from beaver_jax import terminal
from beaver_jax.status import shown

WRONG = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Shows what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m beaver_jax.status',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('run', type=pathlib.Path, help='directory of a run or a stage')
    parser.add_argument(
        '--json', action='store_true', help='for machines: an object a line'
    )
    parser.add_argument(
        '--watch', type=_seconds, metavar='SECONDS', help='again and again, until ^C'
    )
    arguments = parser.parse_args(argv)
    healthy = True
    with terminal.errors_in_a_line(ValueError, OSError):
        try:
            healthy = _show(arguments.run, machine=arguments.json)
            while arguments.watch:
                time.sleep(arguments.watch)
                if not arguments.json:
                    # A terminal begins anew; elsewhere an empty line parts them.
                    print('\033[2J\033[H' if sys.stdout.isatty() else '')
                healthy = _show(arguments.run, machine=arguments.json)
        except KeyboardInterrupt:
            pass
    return 0 if healthy else WRONG


def _show(run: pathlib.Path, *, machine: bool) -> bool:
    """Prints once; returns whether all is well."""
    now = time.time()
    stages = status.read(run, now)
    if machine:
        print(json.dumps(status.as_json(run, stages, now), allow_nan=False))
    else:
        print(shown.text(stages, now))
    sys.stdout.flush()
    return all(one.healthy for one in stages)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above 0, and finite')
    return value


if __name__ == '__main__':
    sys.exit(main())
