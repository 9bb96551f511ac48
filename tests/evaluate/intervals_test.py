"""Exact intervals of rates."""

import numpy as np
import pytest
import scipy.stats

from beaver_jax.evaluate import intervals


def test_without_successes_the_end_is_in_closed_form():
    # (1 - p)^10 = 0.025, so p = 1 - 0.025^(1/10) = 1 - 0.69150.
    low, high = intervals.binomial(0, 10)
    assert (low, high) == (0, pytest.approx(0.30850, abs=1e-5))
    low, high = intervals.binomial(10, 10)
    assert (low, high) == (pytest.approx(0.69150, abs=1e-5), 1)


def test_at_each_end_the_observation_has_half_of_what_the_level_leaves():
    low, high = intervals.binomial(7, 30, level=0.9)
    distribution = scipy.stats.binom
    assert distribution.sf(6, 30, low) == pytest.approx(0.05)  # 7 or more
    assert distribution.cdf(7, 30, high) == pytest.approx(0.05)  # 7 or fewer


@pytest.mark.parametrize('level', [0.8, 0.95])
@pytest.mark.parametrize('trials', [1, 5, 20, 256])
def test_every_rate_is_covered_at_least_as_often_as_the_level_says(trials, level):
    hits = np.arange(trials + 1)
    low, high = intervals.binomial(hits, trials, level)
    # No sampling: the probabilities of all outcomes where the interval holds the rate.
    rates = np.linspace(0, 1, 1001)[:, None]
    held = (low <= rates) & (rates <= high)
    covered = (scipy.stats.binom.pmf(hits, trials, rates) * held).sum(axis=1)
    assert covered.min() >= level


def test_without_trials_nothing_is_known():
    assert intervals.binomial(0, 0) == (0, 1)


def test_the_interval_of_a_share():
    hits = [True, False, False, True]
    assert intervals.of_share(hits) == [*intervals.binomial(2, 4)]


@pytest.mark.parametrize('counts', [(5, 4), (-1, 4), (0.5, 1), (float('nan'), 3)])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match='is no rate: give whole numbers'):
        intervals.binomial(*counts)


@pytest.mark.parametrize('level', [0, 1, 95])
def test_a_level_is_between_0_and_1(level):
    with pytest.raises(ValueError, match=f'level={level}; must be between 0 and 1'):
        intervals.binomial(1, 2, level)
