"""Models that a command line names, to talk with and to score with."""

import argparse

from beaver_jax import layout
from beaver_jax.models import hf_config
from beaver_jax.stages import inputs
from beaver_jax.stages import loading
from beaver_jax.stages import score_model


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m module`, whose help tells every default."""
    return argparse.ArgumentParser(
        prog=f'python -m {module}', description=about, formatter_class=_Help
    )


class _Help(argparse.RawDescriptionHelpFormatter):
    """Adds to an option's help what it is if it is not given, if that is anything."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default in (None, '', [], argparse.SUPPRESS)
        if nothing or action.default is False:
            return action.help
        return f'{action.help} (default: %(default)s)'


class Once(argparse.Action):
    """Stores a value, and refuses a second one, which would replace the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Stores it."""
        before = getattr(namespace, self.dest)
        if before is not None:
            raise argparse.ArgumentError(
                self, f'given twice, as {before!r} and as {values!r}; leave one out'
            )
        setattr(namespace, self.dest, values)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Adds language models, one or more."""
    parser.add_argument('models', nargs='+', metavar='[NAME=]MODEL')


def add_score_models(parser: argparse.ArgumentParser, use: str) -> None:
    """Adds --reward and --cost, which are for `use`."""
    parser.add_argument(
        '--reward', action=Once, metavar='MODEL', help=f'a reward model, for {use}'
    )
    parser.add_argument(
        '--cost',
        action='append',
        default=[],
        metavar='[NAME=]MODEL',
        help=f'a cost model, for {use}; may be given several times',
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype."""
    parser.add_argument(
        '--dtype',
        default='auto',
        choices=inputs.DTYPES,
        help='auto: bfloat16 on accelerators, float32 on CPUs',
    )


def paths(arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Of the language models and of the score models, by name.

    Raises:
      ValueError: A name that is none or taken, or a path without a model of the kind
        that is meant.
    """
    talkers = layout.named(arguments.models)
    costs = layout.named(arguments.cost, default='harm')
    scorers = {score_model.REWARD: arguments.reward} if arguments.reward else {}
    if score_model.REWARD in costs:
        raise ValueError('--cost: a cost model may not be called reward.')
    scorers |= costs
    for path in talkers.values():
        loading.directory(path)
    for name, path in scorers.items():
        _check('reward' if name == score_model.REWARD else 'cost', path)
    return talkers, scorers


def _check(option: str, path: str) -> None:
    """Refuses what is no score model of the option's type, if it tells its own."""
    try:
        directory = loading.directory(path, scores=True)
    except ValueError as error:
        raise ValueError(f'--{option}: {error}') from error
    own = hf_config.read(directory).get('score_type')
    if own not in (None, option):
        other = f', or give this one as --{own}' if own in ('reward', 'cost') else ''
        raise ValueError(
            f'--{option}: {path!r} is a {own} model (score_type in its config.json); '
            f'name a {option} model{other}.'
        )
