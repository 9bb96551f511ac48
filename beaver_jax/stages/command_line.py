"""Models that a command line names, to talk with and to score with."""

import argparse
from collections.abc import Sequence
import pathlib
import re

from beaver_jax.stages import inputs
from beaver_jax.stages import loading
from beaver_jax.stages import score_model


def add_models(parser: argparse.ArgumentParser) -> None:
    """Adds language models, one or more."""
    parser.add_argument('models', nargs='+', metavar='[NAME=]MODEL')


def add_score_models(parser: argparse.ArgumentParser, use: str) -> None:
    """Adds --reward and --cost, which are for `use`."""
    parser.add_argument('--reward', help=f'a reward model, for {use}')
    parser.add_argument(
        '--cost',
        action='append',
        default=[],
        metavar='[NAME=]MODEL',
        help=f'a cost model, for {use}; may be given several times',
    )


def paths(arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Of the language models and of the score models, by name.

    Raises:
      ValueError: A name that is none or taken, or a path without such a model.
    """
    talkers = named(arguments.models)
    costs = named(arguments.cost, default='harm')
    scorers = {score_model.REWARD: arguments.reward} if arguments.reward else {}
    if score_model.REWARD in costs:
        raise ValueError('--cost: a cost model may not be called reward.')
    scorers |= costs
    for found, scores in ((talkers, False), (scorers, True)):
        for path in found.values():
            loading.directory(path, scores=scores)
    return talkers, scorers


def named(given: Sequence[str], default: str | None = None) -> dict[str, str]:
    """Paths by name, of [NAME=]PATH.

    Args:
      given: Of the command line.
      default: The name of the first path without one; else its own last part.

    Raises:
      ValueError: A name that is taken, or has other characters than letters, digits,
        '.', '_' and '-'.
    """
    found: dict[str, str] = {}
    for one in given:
        before, equals, behind = one.partition('=')
        name, path = (before, behind) if equals and '/' not in before else ('', one)
        own = pathlib.Path(path).absolute()
        own = own.parent if own.name == inputs.MODEL else own
        name = name or (default if default and default not in found else own.name)
        if not re.fullmatch(r'[\w.-]+', name):
            raise ValueError(f'{one!r}: {name!r} cannot be a name; use NAME={path}')
        if name in found:
            raise ValueError(
                f'{found[name]!r} and {path!r} are both called {name!r}; use NAME=PATH.'
            )
        found[name] = path
    return found
