"""Elo ratings of models by comparisons of their answers.

The model is Bradley and Terry's: a wins over b with probability
1 / (1 + 10^((R_b - R_a) / 400)), and a tie is half a win for both. All comparisons are
taken together, so their order is of no account. One call rates one quality; what is
helpful and what is harmless are rated by two.

Ratings are those of largest likelihood under a weak prior, without which a model that
has won or lost everything would be infinitely far from the others. It is that of M - 1
virtual ties for M models, as many as there are ratings to find, over all pairs that
were compared: each pair has as much of them as its comparisons would determine of the
ratings if all models were equal. For two models this is one tie, Jeffreys' prior of a
rate, and W wins of N put the difference at 400·log10((W + ½) / (N - W + ½)).

Intervals are those of the sandwich estimator of variance, with the virtual wins and
losses among what was observed. It asks only that groups of comparisons be independent:
ties, which vary less than wins and losses do, make the interval narrower, and the
comparisons of one prompt, which depend on each other, may be a group. For two models
without ties it is the interval of the log-odds with ½ added to wins and losses (Gart &
Zweifel, Biometrika 54, 1967). The percentiles of a bootstrap would cover too little (in
83% of all cases for two models 400 points apart, compared 20 times, where these cover
in 97%) and have no width for a model that has won everything.

Sources: Bradley & Terry, Biometrika 39 (1952); Firth, Biometrika 80 (1993), for the
prior; White, Econometrica 50 (1982), for the sandwich.
"""

import collections
from collections.abc import Hashable, Iterable, Iterator, Mapping
import math
from typing import NamedTuple

import numpy as np
import scipy.sparse.csgraph
import scipy.special

from beaver_jax.evaluate import intervals

ANCHOR = 1000.0  # the rating of the model that others are compared with
POINTS = 400 / np.log(10)  # Elo points of a log-odds of 1


class Comparison(NamedTuple):
    """Two models' answers to one prompt, compared.

    Comparisons of one group, such as all those of one prompt, depend on each other;
    without a group a comparison depends on no other.
    """

    first: str
    second: str
    outcome: float  # 1 the first wins, 0 the second, ½ a tie
    group: Hashable = None


class Rating(NamedTuple):
    """Elo points, and the ends of their interval."""

    rating: float
    low: float
    high: float


def rate(
    comparisons: Iterable[Comparison], anchor: str, level: float = 0.95
) -> dict[str, Rating]:
    """Rates the models of some comparisons.

    Args:
      comparisons: In any order.
      anchor: The model whose rating is 1000; the intervals of the others are those of
        their distance to it.
      level: Of the intervals, in (0, 1).

    Returns:
      The ratings by model, in the order in which comparisons name them.

    Raises:
      ValueError: An outcome that is none, a model compared with itself, an anchor that
        was compared with nothing, or models that no chain of comparisons joins to it.
    """
    intervals.check_level(level)
    names, patterns, counts = _tabulate(comparisons)
    if anchor not in names:
        raise ValueError(
            f'{anchor!r} was compared with nothing; compared were: '
            f'{", ".join(names) or "no models"}.'
        )
    wins = np.tensordot(counts, patterns, 1)
    _check_joined(wins, names, anchor)
    at = names.index(anchor)
    ties = prior(wins)
    strengths = fit(wins + ties / 2, at)
    errors = _standard_errors(strengths, patterns, counts, ties, at)
    reach = scipy.special.ndtri((1 + level) / 2) * errors
    ends = np.stack([strengths, strengths - reach, strengths + reach], axis=1)
    rows = (ANCHOR + POINTS * ends).tolist()
    return {name: Rating(*row) for name, row in zip(names, rows, strict=True)}


def by_scores(scores: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Compares models by the scores of their answers, every one with every other.

    Args:
      scores: By model: [N], of the answers to the same N prompts; the higher wins, and
        equal scores are a tie. Prompts where one of two scores is NaN are left out.
    """
    names = list(scores)
    for prompt, row in enumerate(zip(*scores.values(), strict=True)):
        for j, second in enumerate(row):
            for i, first in enumerate(row[:j]):
                if not (math.isnan(first) or math.isnan(second)):
                    outcome = 0.5 if first == second else float(first > second)
                    yield Comparison(names[i], names[j], outcome, prompt)


def fit(wins: np.ndarray, anchor: int) -> np.ndarray:
    """Log-strengths of largest likelihood under the model of Bradley and Terry.

    Newton's method. A step is shortened until no difference of strengths moves by more
    than 1: so far the likelihood, which is self-concordant in the sense of Bach
    (Electronic Journal of Statistics 4, 2010), is sure to grow.

    Args:
      wins: [M, M] how often the row won over the column, ties half.
      anchor: The model whose log-strength is 0.

    Returns:
      [M] θ with σ(θ_a - θ_b) the probability that a wins over b.

    Raises:
      ValueError: There is no maximum, for some models have won, or lost, everything.
    """
    parts, _ = scipy.sparse.csgraph.connected_components(wins, connection='strong')
    if parts > 1:
        raise ValueError(
            'the likelihood has no maximum: some models have won, or lost, everything '
            'against the others.'
        )
    theta = np.zeros(len(wins))
    free = np.arange(len(wins)) != anchor
    while True:
        win = _win(theta)
        gradient = (wins * (1 - win) - wins.T * win).sum(axis=1)[free]
        step = np.zeros(len(wins))
        step[free] = np.linalg.solve(_information(wins, win)[free][:, free], gradient)
        theta += step / max(np.ptp(step), 1)
        # Its square root is how far we were, in standard errors.
        if gradient @ step[free] < 1e-12:
            return theta


def prior(wins: np.ndarray) -> np.ndarray:
    """Virtual ties between the models that were compared; they sum to M - 1 pairs.

    Of a pair with n comparisons n·r, with r the resistance between the two where each
    comparison is a wire of resistance 1: the leverage of these comparisons on the
    ratings of equal models. (That it sums to M - 1 is Foster's theorem.)

    Args:
      wins: [M, M].

    Returns:
      [M, M], symmetric.
    """
    games = wins + wins.T
    inverse = np.linalg.pinv(_laplacian(games), hermitian=True)
    own = np.diagonal(inverse)
    # Rounding may leave a little below 0.
    return np.maximum(games * (own[:, None] + own[None, :] - 2 * inverse), 0)


def _standard_errors(
    theta: np.ndarray,
    patterns: np.ndarray,
    counts: np.ndarray,
    ties: np.ndarray,
    anchor: int,
) -> np.ndarray:
    """[M], of the differences to the anchor, by the sandwich estimator.

    Args:
      theta: [M] the fit.
      patterns: [U, M, M] wins in a group.
      counts: [U] groups.
      ties: [M, M] of the prior.
      anchor: Has no error.
    """
    win = _win(theta)
    free = np.arange(len(theta)) != anchor
    # Of each group: Σ_j w_ij·(1 - p_ij) - w_ji·p_ij.
    scores = (patterns * (1 - win) - patterns.swapaxes(1, 2) * win).sum(axis=2)
    # A virtual tie is half a win and, independent of it, half a loss.
    meat = (scores.T * counts) @ scores + _laplacian(ties / 2 * (win**2 + win.T**2))
    wins = np.tensordot(counts, patterns, 1) + ties / 2
    bread = np.linalg.inv(_information(wins, win)[free][:, free])
    errors = np.zeros(len(theta))
    errors[free] = np.sqrt(np.diagonal(bread @ meat[free][:, free] @ bread))
    return errors


def _win(theta: np.ndarray) -> np.ndarray:
    """[M, M] the probability that the row wins over the column."""
    return scipy.special.expit(theta[:, None] - theta[None, :])


def _information(wins: np.ndarray, win: np.ndarray) -> np.ndarray:
    return _laplacian((wins + wins.T) * win * win.T)


def _laplacian(weights: np.ndarray) -> np.ndarray:
    """diag(Σ_j w_ij) - w of symmetric weights [M, M]."""
    return np.diag(weights.sum(axis=1)) - weights


def _tabulate(
    comparisons: Iterable[Comparison],
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Models [M], wins [U, M, M] in groups that differ, and the number of each [U]."""
    places: dict[str, int] = {}
    groups: dict[Hashable, list[tuple[int, int, float]]] = collections.defaultdict(list)
    for n, one in enumerate(comparisons):
        _check(one)
        i, j = (places.setdefault(x, len(places)) for x in (one.first, one.second))
        outcome = float(one.outcome)
        # One orientation, so that equal groups are seen to be equal.
        row = (i, j, outcome) if i < j else (j, i, 1 - outcome)
        key = (False, n) if one.group is None else (True, one.group)
        groups[key].append(row)
    different = collections.Counter(tuple(sorted(rows)) for rows in groups.values())
    patterns = np.zeros((len(different), len(places), len(places)))
    for pattern, rows in zip(patterns, different, strict=True):
        for i, j, outcome in rows:
            pattern[i, j] += outcome
            pattern[j, i] += 1 - outcome
    return list(places), patterns, np.array(list(different.values()), float)


def _check(one: Comparison) -> None:
    if one.first == one.second:
        raise ValueError(f'{one} compares a model with itself; leave it out.')
    if one.outcome not in (0, 0.5, 1):
        raise ValueError(
            f'{one} has no outcome: 1 where the first wins, 0 where the second does, '
            '0.5 for a tie.'
        )


def _check_joined(wins: np.ndarray, names: list[str], anchor: str) -> None:
    _, parts = scipy.sparse.csgraph.connected_components(wins + wins.T)
    here = parts[names.index(anchor)]
    if apart := [name for name, part in zip(names, parts, strict=True) if part != here]:
        raise ValueError(
            f'no chain of comparisons joins {", ".join(apart)} to {anchor}, so their '
            'ratings cannot be told from each other; compare them, or rate each side '
            'with an anchor of its own.'
        )
