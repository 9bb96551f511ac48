r"""Runs EleutherAI's lm-evaluation-harness on a model of this package.

    python -m beaver_jax.evaluate.harness --model beaver_jax \
        --model_args pretrained=runs/tiny/ppo_lag,batch_size=16 --tasks TASK

The arguments are those of `lm_eval`, which finds no models of other packages by
itself; here it has ours. docs/evaluation.md has the arguments of the model.
"""

from collections.abc import Sequence
import sys

from beaver_jax import compilation
from beaver_jax import terminal


def main(argv: Sequence[str]) -> None:
    """Runs `lm_eval`'s command line with our model in its list."""
    terminal.show_log()
    compilation.keep()
    with terminal.errors_in_a_line(ValueError, OSError):
        try:
            from beaver_jax.evaluate.harness import model
        except ImportError as error:
            raise ValueError(
                f"{error}; install the harness: pip install -e '.[eval]'"
            ) from error
        model.command(argv)


if __name__ == '__main__':
    main(sys.argv[1:])
