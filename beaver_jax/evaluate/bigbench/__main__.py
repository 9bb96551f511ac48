r"""Evaluates a model on BIG-bench's JSON tasks.

    python -m beaver_jax.evaluate.bigbench runs/tiny/ppo_lag TASK.json --shots 2

A model is a stage's directory or a Hugging Face directory; a task is a task.json or
the directory that holds it. docs/evaluation.md says how answers are graded.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from beaver_jax import compilation
from beaver_jax import terminal
from beaver_jax.evaluate import bigbench
from beaver_jax.evaluate import language_model
from beaver_jax.evaluate.bigbench import tasks
from beaver_jax.stages import inputs


def main(argv: Sequence[str]) -> None:
    """Evaluates what the command line asks for and prints a table."""
    arguments = _parser().parse_args(argv)
    terminal.show_log()
    compilation.keep()
    with terminal.errors_in_a_line(ValueError, OSError):
        read = [tasks.read(path) for path in arguments.tasks]
        out = pathlib.Path(arguments.out)
        bigbench.check(read, arguments.shots, arguments.max_new_tokens, out)
        out.mkdir(parents=True, exist_ok=True)
        model = language_model.LanguageModel(
            arguments.model,
            dtype=arguments.dtype,
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
        )
        found, samples = bigbench.run(
            model,
            read,
            shots=arguments.shots,
            seed=arguments.seed,
            limit=arguments.max_new_tokens,
        )
        asked = {name: getattr(arguments, name) for name in ('model', 'shots', 'seed')}
        results = {**asked, 'tasks': found}
        bigbench.write(out, results, samples)
        columns = ('task and metric', 'value', '95% interval')
        terminal.table('BIG-bench', columns, list(bigbench.table(results)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m beaver_jax.evaluate.bigbench',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model', help='stage directory or Hugging Face directory')
    parser.add_argument('tasks', nargs='+', metavar='TASK.json')
    parser.add_argument(
        '--out', default='runs/bigbench', help='where results go (runs/bigbench)'
    )
    parser.add_argument(
        '--shots', type=int, default=0, help='examples shown before each (0)'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of those, and of the order of choices (0)'
    )
    parser.add_argument(
        '--max_new_tokens', type=int, default=64, help='longest answer (64)'
    )
    parser.add_argument(
        '--batch_size', type=int, default=language_model.BATCH, help='rows at a time'
    )
    parser.add_argument(
        '--max_length',
        type=int,
        help="tokens that are read; else the model's positions",
    )
    parser.add_argument('--dtype', default='auto', choices=inputs.DTYPES)
    return parser


if __name__ == '__main__':
    main(sys.argv[1:])
