"""Models that a command line names, to talk with and to score with."""

import argparse

from beaver_jax import layout
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
    talkers = layout.named(arguments.models)
    costs = layout.named(arguments.cost, default='harm')
    scorers = {score_model.REWARD: arguments.reward} if arguments.reward else {}
    if score_model.REWARD in costs:
        raise ValueError('--cost: a cost model may not be called reward.')
    scorers |= costs
    for found, scores in ((talkers, False), (scorers, True)):
        for path in found.values():
            loading.directory(path, scores=scores)
    return talkers, scorers
