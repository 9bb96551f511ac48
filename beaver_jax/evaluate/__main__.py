"""Command line of the evaluation: `python -m beaver_jax.evaluate --config=…`."""

from collections.abc import Sequence
import sys

import jax

from beaver_jax import compilation
from beaver_jax import config as config_lib
from beaver_jax import distributed
from beaver_jax import evaluate
from beaver_jax import report
from beaver_jax import sharding
from beaver_jax import terminal
from beaver_jax.report import summary as summaries


def main(argv: Sequence[str]) -> None:
    """Evaluates what the command line asks for and prints a table."""
    place, argv = distributed.options(argv)
    terminal.show_log()
    compilation.keep()
    config = config_lib.from_argv(argv)
    with (
        distributed.joined(place),
        terminal.errors_in_a_line(ValueError, OSError),
    ):
        terminal.show_log(jax.process_index())
        mesh = sharding.make_mesh(**config.mesh)
        with jax.set_mesh(mesh):
            results = evaluate.run(config, mesh)
        if jax.process_index() == 0:
            report.show(summaries.evaluation(results))


if __name__ == '__main__':
    main(sys.argv[1:])
