"""Exact intervals of rates."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
import scipy.special


class Interval(NamedTuple):
    """Two ends, both included; [...] as what it is of."""

    low: np.ndarray
    high: np.ndarray


def binomial(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval of a rate.

    It holds every rate under which neither so many successes nor so few have a
    probability of less than (1 - level) / 2. It covers the true rate in at least
    `level` of all cases, for every rate and number of trials; being exact it is wider
    than others where successes or failures are few. Without trials it is [0, 1].

    Source: Clopper & Pearson, Biometrika 26 (1934); the ends as quantiles of beta
    distributions.

    Args:
      successes: [...] whole numbers.
      trials: [...] whole numbers, independent of each other.
      level: In (0, 1).

    Raises:
      ValueError: Counts that are not whole, negative, or more successes than trials.
    """
    check_level(level)
    hits, counts = np.asarray(successes), np.asarray(trials)
    whole = hits.dtype.kind in 'biu' and counts.dtype.kind in 'biu'
    if not whole or np.any(hits < 0) or np.any(hits > counts):
        raise ValueError(
            f'{successes!r} of {trials!r} is no rate: give whole numbers, from 0 to as '
            'many as there are trials.'
        )
    misses = counts - hits
    tail = (1 - level) / 2
    quantile = scipy.special.betaincinv
    # Where there is nothing to one side, the end is 0 or 1, and beta is not defined.
    low = quantile(np.maximum(hits, 1), misses + 1, tail)
    high = quantile(hits + 1, np.maximum(misses, 1), 1 - tail)
    return Interval(np.where(hits == 0, 0.0, low), np.where(misses == 0, 1.0, high))


def of_share(hits: ArrayLike, level: float = 0.95) -> list[float]:
    """The ends of the interval of mean(hits), [N] bool, as results.json holds them."""
    hits = np.asarray(hits, bool)
    return [float(end) for end in binomial(int(hits.sum()), hits.size, level)]


def check_level(level: float) -> None:
    """Raises a ValueError for a level that is no probability between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f'level={level}; must be between 0 and 1, such as 0.95.')
