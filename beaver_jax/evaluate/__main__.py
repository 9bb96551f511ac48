"""Command line of the evaluation: `python -m beaver_jax.evaluate --config=…`."""

import sys

import jax

from beaver_jax import compilation
from beaver_jax import config as config_lib
from beaver_jax import evaluate
from beaver_jax import report
from beaver_jax import sharding
from beaver_jax import terminal
from beaver_jax.report import summary as summaries


def main(argv: list[str]) -> None:
    """Evaluates what the command line asks for and prints a table."""
    terminal.show_log()
    compilation.keep()
    config = config_lib.from_argv(argv)
    with terminal.errors_in_a_line(ValueError, OSError):
        mesh = sharding.make_mesh(**config.mesh)
        with jax.set_mesh(mesh):
            report.show(summaries.evaluation(evaluate.run(config, mesh)))


if __name__ == '__main__':
    main(sys.argv[1:])
