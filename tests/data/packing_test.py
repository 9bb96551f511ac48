"""Bins of sequences: full, complete in every epoch, another order in each."""

import collections

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from beaver_jax.data import packing

SIZE = 30
some_lengths = st.lists(st.integers(1, SIZE), min_size=1, max_size=60)


def epoch(bins, number):
    first = number * len(bins)
    return [bins.sequences(i).tolist() for i in range(first, first + len(bins))]


def one_by_one(lengths, size):
    """Best fit decreasing as it is told: the room that is left in each bin."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        rooms.remove(min(fitting)) if fitting else None
        rooms.append((min(fitting) if fitting else size) - length)
    return sorted(rooms)


def test_bins_by_hand():
    # 7 and 3 fill one; 6 takes 4 and leaves no room, the last 3 is alone.
    bins = packing.Packing([3, 4, 7, 3, 6], 10)
    lengths = np.array([3, 4, 7, 3, 6])
    found = sorted(sorted(lengths[x].tolist()) for x in epoch(bins, 0))
    assert found == [[3], [3, 7], [4, 6]]


def test_bins_have_the_numbers_on_which_a_resumed_run_depends():
    # 7; 6; 4 beside 6; a 3 beside 7; the other alone.
    counts = np.bincount([7, 6, 4, 3, 3], minlength=11)
    assert packing.best_fit(counts).tolist() == [0, 1, 1, 0, 2]


@given(some_lengths)
@settings(deadline=None)
def test_bins_are_filled_by_best_fit_decreasing(lengths):
    bins = packing.Packing(lengths, SIZE)
    rooms = [SIZE - sum(lengths[i] for i in x) for x in epoch(bins, 0)]
    assert sorted(rooms) == one_by_one(lengths, SIZE)


@given(some_lengths, st.integers(0, 2**32), st.integers(0, 10**6))
@settings(deadline=None)
def test_each_epoch_has_every_sequence_once_in_bins_that_hold_them(
    lengths, seed, number
):
    found = epoch(packing.Packing(lengths, SIZE, seed), number)
    assert sorted(i for sequences in found for i in sequences) == [*range(len(lengths))]
    assert all(0 < sum(lengths[i] for i in x) <= SIZE for x in found)


@given(some_lengths, st.integers(0, 2**32), st.lists(st.integers(0, 400), max_size=9))
@settings(deadline=None)
def test_a_bin_is_the_same_whatever_was_read_before(lengths, seed, before):
    bins = packing.Packing(lengths, SIZE, seed)
    for index in before:
        bins.sequences(index)
    for index in before[::-1]:
        fresh = packing.Packing(lengths, SIZE, seed).sequences(index)
        np.testing.assert_array_equal(bins.sequences(index), fresh)


def test_orders_and_companions_differ_between_epochs_and_seeds():
    lengths = [*range(1, 11)] * 8
    orders, companions = set(), set()
    for seed in (1, 2, 3):
        bins = packing.Packing(lengths, SIZE, seed)
        for number in range(3):
            found = epoch(bins, number)
            orders.add(tuple(map(tuple, found)))
            companions.add(frozenset(map(frozenset, found)))
    assert len(orders) == len(companions) == 9


def test_every_sequence_of_a_length_comes_to_every_place_of_it():
    # One place is alone, one beside 7: in 40 epochs each of the two is in both.
    bins = packing.Packing([3, 3, 7], 10)
    beside = [x for number in range(40) for x in epoch(bins, number) if 2 in x]
    counts = collections.Counter(min(x) for x in beside)
    # 40 throws of a coin: 20 of each, with a spread of √10 = 3.2.
    assert counts.keys() == {0, 1}
    assert 8 <= counts[0] <= 32


@pytest.mark.parametrize('lengths', [[3, 11], [0, 3]])
def test_what_does_not_fit_is_refused(lengths):
    with pytest.raises(ValueError, match='are not within 1 and size=10'):
        packing.Packing(lengths, 10)


def test_a_million_sequences_fill_their_bins():
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.5, 0.8, 1_000_000).astype(int), 10, 2048)
    bins = packing.Packing(lengths, 2048)
    assert lengths.sum() / (len(bins) * 2048) > 0.999
    assert len(bins.sequences(5 * len(bins))) >= 1
