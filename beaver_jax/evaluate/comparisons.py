"""Comparisons of two models' answers to a prompt: rows, counts, ratings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, Literal

from beaver_jax.evaluate import elo
from beaver_jax.evaluate import intervals

Outcome = Literal['a', 'b', 'tie', 'failed']
_FIRST_WINS = {'a': 1.0, 'b': 0.0, 'tie': 0.5}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, judged in one dimension."""

    model_a: str
    model_b: str
    prompt: int  # which line of samples.jsonl, from 0
    category: str  # of the prompt, '' if it has none
    dimension: str
    # What was said where a's answer came first, and where b's did. Both are 'tie' of
    # answers that are the same text, which nobody was asked about.
    orders: tuple[Outcome, Outcome]
    reason: str = ''  # why an order has failed

    @property
    def outcome(self) -> Outcome:
        """What both orders say; a tie where they differ; failed if one has failed."""
        one, other = self.orders
        if 'failed' in self.orders:
            return 'failed'
        return one if one == other else 'tie'

    @property
    def flipped(self) -> bool:
        """Whether the preference is another one in the other order."""
        return set(self.orders) == {'a', 'b'}

    def row(self) -> dict[str, Any]:
        """As comparisons.jsonl holds it."""
        return dataclasses.asdict(self) | {'outcome': self.outcome}

    def of(self, model: str) -> str:
        """'win', 'loss', 'tie' or 'failed' for one of the two models."""
        mine = 'a' if model == self.model_a else 'b'
        told = {mine: 'win', 'tie': 'tie', 'failed': 'failed'}
        return told.get(self.outcome, 'loss')


def tally(comparisons: Sequence[Comparison], model: str) -> dict[str, Any]:
    """What a model won and lost against another one.

    Args:
      comparisons: Of these two, in one dimension.
      model: One of them.

    Returns:
      'wins', 'ties', 'losses', 'failed' and 'flipped' (ties, for the preference flipped
      with the order), counts; 'win_rate' among those that have not failed, None
      without any, and 'win_interval', exact, at 95%.
    """
    told = [one.of(model) for one in comparisons]
    wins, decided = told.count('win'), len(told) - told.count('failed')
    return {
        'wins': wins,
        'ties': told.count('tie'),
        'losses': told.count('loss'),
        'failed': told.count('failed'),
        'flipped': sum(one.flipped for one in comparisons),
        'win_rate': wins / decided if decided else None,
        'win_interval': [
            float(end) for end in intervals.binomial(wins, max(decided, 1))
        ]
        if decided
        else [0.0, 1.0],
    }


def summarize(comparisons: Sequence[Comparison], baseline: str) -> dict[str, Any]:
    """Counts against a baseline and ratings, by dimension and by category.

    Returns:
      'dimensions': {dimension: {'models': {model: `tally`}, 'elo': {model: {'rating',
      'low', 'high'}}}}, and 'categories': {category: {dimension: {model: `tally`}}}
      where prompts have some.
    """
    told: dict[str, Any] = {
        'dimensions': {
            dimension: {'models': _against(some, baseline), 'elo': rate(some, baseline)}
            for dimension, some in _by(comparisons, 'dimension').items()
        }
    }
    categories = _by(comparisons, 'category')
    if categories.keys() - {''}:
        told['categories'] = {
            category: {
                dimension: _against(few, baseline)
                for dimension, few in _by(some, 'dimension').items()
            }
            for category, some in categories.items()
        }
    return told


def rate(
    comparisons: Iterable[Comparison], baseline: str
) -> dict[str, dict[str, float]]:
    """Elo ratings of what has not failed; {} if that is not of the baseline."""
    known = [one for one in comparisons if one.outcome != 'failed']
    joined = _joined(known, baseline)
    rated = list(_for_elo(one for one in known if one.model_a in joined))
    if not rated:
        return {}
    found = elo.rate(rated, baseline)
    return {name: one._asdict() for name, one in found.items()}


def _for_elo(comparisons: Iterable[Comparison]) -> Iterator[elo.Comparison]:
    """Comparisons of one prompt depend on each other."""
    for one in comparisons:
        first = _FIRST_WINS[one.outcome]
        yield elo.Comparison(one.model_a, one.model_b, first, one.prompt)


def _joined(comparisons: Sequence[Comparison], baseline: str) -> set[str]:
    """The models that a chain of comparisons joins to the baseline."""
    joined, before = {baseline}, 0
    while len(joined) > before:
        before = len(joined)
        for one in comparisons:
            if {one.model_a, one.model_b} & joined:
                joined |= {one.model_a, one.model_b}
    return joined


def _against(
    comparisons: Sequence[Comparison], baseline: str
) -> dict[str, dict[str, Any]]:
    pairs: dict[str, list[Comparison]] = {}
    for one in comparisons:
        models = {one.model_a, one.model_b}
        if baseline in models:
            (other,) = models - {baseline}
            pairs.setdefault(other, []).append(one)
    return {model: tally(some, model) for model, some in pairs.items()}


def _by(comparisons: Iterable[Comparison], field: str) -> Mapping[str, list[Any]]:
    found: dict[str, list[Comparison]] = {}
    for one in comparisons:
        found.setdefault(getattr(one, field), []).append(one)
    return found
