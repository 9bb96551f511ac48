"""What lies where in a run's directory, and by what a stage is told at a glance.

    <run>/<stage>/   config.json  metrics.jsonl  checkpoints/  model/  summary.json

Names alone: who reads a run need not know how it is trained.
"""

from collections.abc import Mapping, Sequence
import difflib
import json
import pathlib
import re
from typing import NamedTuple

SUMMARY = 'summary.json'  # written last: its stage is done
RESULTS = 'results.json'  # the same of an evaluation
CARD = 'data_card.json'
CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
MODEL = 'model'  # a finished stage's directory of the trained model
METRICS = 'metrics.jsonl'
PROGRAMS = 'programs.json'  # bytes of each program that trained, by XLA's plan
REPORT = 'report'
PAGE = 'index.html'  # of a report

# The order in which stages are told, and the names they are told by.
STAGES = {
    'sft': 'SFT',
    'reward': 'Reward model',
    'cost': 'Cost model',
    'ppo': 'PPO',
    'ppo_lag': 'PPO-Lagrangian',
    'ppo_reward_shaping': 'PPO, reward shaping',
}
# Metrics worth a place beside a progress bar.
_PAIRS = ('train/loss', 'train/accuracy')
_POLICY = ('train/reward', 'train/cost', 'train/lambda', 'train/kl_divergence')
HEADLINES = {
    'sft': ('train/loss',),
    'reward': _PAIRS,
    'cost': _PAIRS,
    'ppo': _POLICY,
    'ppo_lag': _POLICY,
    'ppo_reward_shaping': _POLICY,
}


class Saved(NamedTuple):
    """A whole checkpoint."""

    step: int
    bytes: int
    time: float  # Unix time of its end


def is_done(path: pathlib.Path) -> bool:
    """Whether a stage's directory holds a finished stage."""
    return any((path / name).is_file() for name in (SUMMARY, RESULTS))


def is_aside(path: pathlib.Path) -> bool:
    """Whether a stage's directory was moved aside for another one."""
    return re.search(r'\.old-\d+$', path.name) is not None


def moved(value: str, before: str, now: str) -> str:
    """A value whose paths within one directory are those within another.

    Several paths are separated by commas, and may have names, NAME=PATH or NAME:1:PATH.
    """
    inside = rf'(?<![^,=:]){re.escape(before)}(?=[/,]|$)'
    return re.sub(inside, lambda _: now, value)


def named(given: Sequence[str], default: str | None = None) -> dict[str, str]:
    """Paths by name, of [NAME=]PATH.

    Args:
      given: Of the command line.
      default: The name of the first path without one; else its own last part.

    Raises:
      ValueError: A name that is taken, or has other characters than letters, digits,
        '.', '=', '_' and '-'.
    """
    found: dict[str, str] = {}
    for one in given:
        before, equals, behind = one.partition('=')
        has_name = equals and '/' not in before and not pathlib.Path(one).is_dir()
        name, path = (before, behind) if has_name else ('', one)
        own = pathlib.Path(path).absolute()
        own = own.parent if own.name == MODEL else own
        if not has_name:
            name = default if default and default not in found else own.name
        if not re.fullmatch(r'[\w.=-]+', name):
            raise ValueError(f'{one!r}: {name!r} cannot be a name; use NAME={path}')
        if name in found:
            raise ValueError(
                f'{found[name]!r} and {path!r} are both called {name!r}; use NAME=PATH.'
            )
        found[name] = path
    return found


def is_report(path: pathlib.Path) -> bool:
    """Whether a directory holds a report, which has a summary as stages have."""
    return path.name == REPORT or (path / PAGE).is_file()


def stages(path: pathlib.Path) -> list[str]:
    """The stages that were begun in a directory, by name; none of one that is shut."""
    try:
        return sorted(item.name for item in path.iterdir() if _is_begun(item))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _is_begun(path: pathlib.Path) -> bool:
    if is_report(path) or is_aside(path):
        return False
    if is_done(path) or (path / METRICS).is_file():
        return True
    try:
        config = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    # A model's config.json is of another kind.
    return isinstance(config, dict) and 'stage' in config


def neighbours(path: pathlib.Path) -> str:
    """Says, of a run that is not there, which there are instead.

    The names most like the one that was asked for come first.
    """
    parent = path.parent
    if not parent.is_dir():
        return f'; there is no {parent} either.'
    if own := stages(parent):
        return f'; {parent} is a run itself, and its stages are {", ".join(own)}.'
    names = sorted(item.name for item in parent.iterdir() if stages(item))
    alike = difflib.get_close_matches(path.name, names, n=len(names) or 1, cutoff=0)
    return f'; {parent} holds {", ".join(alike[:8]) or "no run"}.'


def glance(headline: Sequence[str], metrics: Mapping[str, float]) -> dict[str, float]:
    """The headline metrics that there are, or else each of a metric's parts."""
    return {
        name.removeprefix('train/'): metrics[name]
        for one in headline
        for name in (
            [one]
            if one in metrics
            else [part for part in metrics if part.startswith(f'{one}/')]
        )
    }


def checkpoints(directory: pathlib.Path) -> list[Saved]:
    """The whole checkpoints of a stage's directory, by step.

    Those under way have longer names. Files that go meanwhile are not counted.
    """
    found = []
    for path in (directory / CHECKPOINTS).glob('*'):
        if path.name.isdecimal():
            try:
                time = path.stat().st_mtime
                files = [file.stat() for file in path.rglob('*') if file.is_file()]
            except FileNotFoundError:
                continue
            size = sum(file.st_size for file in files)
            found.append(Saved(int(path.name), size, time))
    return sorted(found)
