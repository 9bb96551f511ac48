"""Batches of rows of similar length: short, complete, the same by index."""

import collections
import itertools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from beaver_jax.data import batches
from beaver_jax.data import buckets as buckets_lib
from beaver_jax.data import examples
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from tests import vocabularies

MAX_LENGTH = 60  # not a multiple of 8
some_lengths = st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=50)
some_counts = st.integers(2, 5)


def make(lengths, *, count=3, batch_size=4, seed=0):
    return buckets_lib.Buckets(
        lengths, batch_size=batch_size, count=count, max_length=MAX_LENGTH, seed=seed
    )


def epoch(buckets, number):
    first = number * len(buckets)
    return [buckets.batch(i) for i in range(first, first + len(buckets))]


# ---- Lengths ------------------------------------------------------------------------


def test_lengths_by_hand():
    # Rounded up: 8 thrice, 16 once, 40 twice, 60. Of two lengths 60 is one; the other
    # saves 3·52 (8), 4·44 = 176 (16) or 6·20 = 120 (40).
    lengths = np.array([3, 8, 5, 16, 40, 33, 57])
    assert buckets_lib.choose(lengths, 2, MAX_LENGTH).tolist() == [16, 60]
    assert buckets_lib.choose(lengths, 1, MAX_LENGTH).tolist() == [60]
    assert buckets_lib.choose(lengths, 9, MAX_LENGTH).tolist() == [8, 16, 40, 60]
    # The longest is not longer than the rows need.
    assert buckets_lib.choose(lengths[:6], 1, MAX_LENGTH).tolist() == [40]


@given(some_lengths, some_counts)
@settings(deadline=None)
def test_no_other_lengths_need_fewer_positions(lengths, count):
    rounded = np.minimum(-(-np.array(lengths) // 8) * 8, MAX_LENGTH)
    sizes = np.unique(rounded)

    def positions(chosen):
        return np.array(chosen)[np.searchsorted(chosen, rounded)].sum()

    number = min(count, len(sizes))
    least = min(
        positions((*shorter, sizes[-1]))
        for shorter in itertools.combinations(sizes[:-1], number - 1)
    )
    found = buckets_lib.choose(np.array(lengths), count, MAX_LENGTH)
    assert positions(found) == least
    assert len(found) == number


# ---- Epochs -------------------------------------------------------------------------


@given(some_lengths, some_counts, st.integers(0, 2**32), st.integers(0, 10**6))
@settings(deadline=None)
def test_each_epoch_has_every_row_once_in_batches_that_hold_it(
    lengths, count, seed, number
):
    buckets = make(lengths, count=count, seed=seed)
    found = epoch(buckets, number)
    assert len(found) == -(-len(lengths) // 4)
    rows = [int(row) for _, batch in found for row in batch]
    real = [row for row in rows if row != buckets_lib.NOTHING]
    assert sorted(real) == [*range(len(lengths))]
    assert {length for length, _ in found} == set(buckets.lengths)
    assert len(buckets.lengths) <= count
    assert sum(4 * length for length, _ in found) == buckets.positions
    for length, batch in found:
        assert batch.shape == (4,)
        assert all(lengths[row] <= length for row in batch if row >= 0)
    # Only one batch is filled up, at its end, and it is one of the longest.
    short = [(length, batch) for length, batch in found if min(batch) < 0]
    assert len(short) == (len(lengths) % 4 > 0)
    for length, batch in short:
        assert length == max(buckets.lengths)
        assert max(batch[len(lengths) % 4 :]) < 0


@given(some_lengths, st.integers(0, 2**32), st.lists(st.integers(0, 99), max_size=9))
@settings(deadline=None)
def test_a_batch_is_the_same_whatever_was_read_before(lengths, seed, before):
    buckets = make(lengths, seed=seed)
    for index in before:
        buckets.batch(index)
    for index in before[::-1]:
        length, rows = make(lengths, seed=seed).batch(index)
        assert buckets.batch(index)[0] == length
        np.testing.assert_array_equal(buckets.batch(index)[1], rows)


def test_what_does_not_fill_a_batch_moves_to_the_next_longer_one():
    # 6 rows of 8 and 3 of 16 in batches of 4: one of length 8, one of length 16 with
    # two of the short ones, and of length 24 the rest of 9 + 2 rows.
    buckets = make([8] * 6 + [16] * 3 + [24] * 2)
    batches = epoch(buckets, 0)
    assert sorted(length for length, _ in batches) == [8, 16, 24]
    (middle,) = (rows for length, rows in batches if length == 16)
    assert sorted(rows < 6 for rows in middle) == [False, False, True, True]
    (last,) = (rows for length, rows in batches if length == 24)
    assert np.sum(last == buckets_lib.NOTHING) == 1


def test_a_length_without_a_batch_is_none():
    buckets = make([8] * 3 + [16] * 5 + [24] * 4)
    assert buckets.lengths == (16, 24)


def test_orders_and_companions_differ_between_epochs_and_seeds():
    lengths = [8, 16, 24] * 16
    orders, companions = set(), set()
    for seed in (1, 2, 3):
        buckets = make(lengths, seed=seed)
        for number in range(3):
            found = [tuple(rows.tolist()) for _, rows in epoch(buckets, number)]
            orders.add(tuple(length for length, _ in epoch(buckets, number)))
            companions.add(frozenset(map(frozenset, found)))
    assert len(orders) == len(companions) == 9


# ---- Pairs --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return vocabularies.characters(tmp_path_factory.mktemp('tokenizer'))


LETTERS = 'abcdefghijklmnopqrstuvwxyz'
# 45 for the template, 4 for the question, 1 for EOS: from 51 to 78 tokens.
RECORDS = [
    sources.Comparison(
        ('Why?',),
        (LETTERS[: 1 + i % 26] * (1 + i % 2), LETTERS[i % 7 : 12][::-1]),
        where=str(i),
        better=i % 2,
        safer=None,
        safe=(None, None),
    )
    for i in range(50)
]


def pairs(tokenizer, **options):
    found = examples.encode_pairs(RECORDS, tokenizer, preferred='better', max_length=90)
    return batches.bucketed_pairs(
        found,
        pad=tokenizer.pad_token_id,
        max_length=90,
        batch_size=8,
        buckets=3,
        **options,
    )


def texts(batch):
    """The pairs that are valid, as bytes."""
    return [
        tuple(tokens[mask].tobytes() for tokens, mask in zip(*pair, strict=True))
        for *pair, valid in zip(batch.tokens, batch.mask, batch.valid, strict=True)
        if valid
    ]


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_an_epoch_has_each_pair_once_over_all_processes(tokenizer, processes):
    counts = sources.Counts()
    shards = [
        pairs(tokenizer, shard=(i, processes), counts=counts if i == 0 else None)
        for i in range(processes)
    ]
    once = batches.pairs(
        RECORDS,
        tokenizer,
        preferred='better',
        max_length=90,
        batch_size=8,
        once=True,
    )
    plain = collections.Counter(pair for batch in once for pair in texts(batch))
    assert counts['tokens'] == sum(int(x.mask[x.valid].sum()) for x in once)
    buckets = shards[0][1]
    assert len(buckets.lengths) == 3
    for first in (0, len(buckets)):
        found: collections.Counter = collections.Counter()
        lengths = []
        for index in range(first, first + len(buckets)):
            parts = [stream[index] for stream, _ in shards]
            (shape,) = {part.tokens.shape for part in parts}
            assert shape == (8 // processes, 2, shape[2])
            lengths.append(shape[2])
            for part in parts:
                assert part.mask.any(2).all()  # a filler is a real pair
                found.update(texts(part))
        assert found == plain
        assert set(lengths) == set(buckets.lengths)
        assert sum(lengths) * 8 == buckets.positions


def test_real_pairs_need_less_padding(shared_data):
    tokenizer = tokenizer_lib.load(shared_data / 'stories260K' / 'hf')
    file = shared_data / 'helpsteer_pairs' / 'helpfulness_preference_test.jsonl'
    found = examples.encode_pairs(
        sources.comparisons(file, need='better'),
        tokenizer,
        preferred='better',
        max_length=2048,
    )
    lengths = np.array([[len(tokens) for tokens in pair.tokens] for pair in found])
    shares = []
    for count in (1, 2, 4, 8):
        buckets = buckets_lib.Buckets(
            lengths.max(axis=1), batch_size=16, count=count, max_length=2048
        )
        shares.append(1 - lengths.sum() / (2 * buckets.positions))
    assert shares == sorted(shares, reverse=True)
    # Of a pair the shorter one is padded to the longer in any case.
    assert shares[-1] < 0.7 * shares[0]
