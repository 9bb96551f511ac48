"""What all streams of batches have in common, whatever is in them."""

import collections
from collections.abc import Callable
import dataclasses
from typing import Any

import grain
import jax
import numpy as np
import pytest

from beaver_jax.data import batches
from beaver_jax.data import card
from beaver_jax.data import encoding
from beaver_jax.data import examples
from beaver_jax.data import sources
from tests import vocabularies

KINDS = ('sft', 'packed', 'pairs', 'buckets', 'prompts')
BATCH_SIZE = 4
LETTERS = 'abcdefghijkl'
# Of different lengths; 44 of them are 11 batches.
ROWS = [
    (f'What is {i}?', LETTERS[: 1 + i % 12], LETTERS[::-1][i % 7 :]) for i in range(44)
]
MAX_LENGTH = 160


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches without end, after so many of which so many epochs are over."""

    batches: grain.MapDataset
    size: int
    epochs: int
    counts: sources.Counts
    lengths: card.Lengths

    def rows(self, first: int, last: int) -> list[bytes]:
        """What tells the rows of these batches apart, in their order."""
        return [row for i in range(first, last) for row in rows(self.batches[i])]


def rows(batch: Any) -> list[bytes]:
    """The tokens of each row of a batch: of each segment, and of both of a pair."""
    if hasattr(batch, 'valid'):
        real = batch.mask & batch.valid[:, None, None]
        return [
            t[m].tobytes() for t, m in zip(batch.tokens, real, strict=True) if m.any()
        ]
    segments = getattr(batch, 'segments', None)
    numbers = batch.mask if segments is None else segments
    return [
        tokens[number == n].tobytes()
        for tokens, number in zip(batch.tokens, numbers, strict=True)
        for n in range(1, number.max() + 1)
    ]


@pytest.fixture(scope='module')
def stream(tmp_path_factory) -> Callable[..., Stream]:
    """Makes a stream of a kind."""
    tokenizer = vocabularies.characters(tmp_path_factory.mktemp('tokenizer'))

    def make(kind: str, *, workers: int = 0, **options: Any) -> Stream:
        counts, lengths = sources.Counts(), card.Lengths()
        options |= {'batch_size': BATCH_SIZE}
        told = {'counts': counts, 'lengths': lengths, 'workers': workers}
        limit = {'max_length': MAX_LENGTH}
        size, epochs = len(ROWS) // BATCH_SIZE, 1
        if kind in ('sft', 'packed'):
            records = [sources.Demonstration((q,), a, q) for q, a, _ in ROWS]
            pack = kind == 'packed'
            found = batches.sft(
                records, tokenizer, pack=pack, **limit, **told, **options
            )
            if pack:
                size, epochs = counts['packed'], BATCH_SIZE
        elif kind == 'prompts':
            found = batches.prompts(
                [sources.Prompt((q,), q) for q, _, _ in ROWS],
                tokenizer,
                max_prompt_length=55,  # some are shortened
                **told,
                **options,
            )
        else:
            records = [
                sources.Comparison((q,), (a, b), better=i % 2, where=q)
                for i, (q, a, b) in enumerate(ROWS)
            ]
            preferred = limit | {'preferred': 'better'}
            if kind == 'pairs':
                found = batches.pairs(
                    records, tokenizer, **preferred, **told, **options
                )
            else:
                found, buckets = batches.bucketed_pairs(
                    examples.encode_pairs(records, tokenizer, **preferred, **told),
                    pad=tokenizer.pad_token_id,
                    buckets=3,
                    **limit,
                    **options,
                )
                size = len(buckets)
        return Stream(found, size, epochs, counts, lengths)

    return make


def same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@pytest.mark.parametrize('processes', [1, 2, 4])
@pytest.mark.parametrize('kind', KINDS)
def test_an_epoch_has_each_row_once_over_all_processes(stream, kind, processes):
    whole = stream(kind)
    shards = [stream(kind, shard=(i, processes)) for i in range(processes)]
    found: collections.Counter = collections.Counter()
    for index in range(whole.size):
        parts = [shard.batches[index] for shard in shards]
        same(joined(parts), whole.batches[index])
        for part in parts:
            assert len(part.tokens) == BATCH_SIZE // processes
            found.update(rows(part))
    assert len(found) == len(ROWS)
    assert set(found.values()) == {whole.epochs}


# Packed rows and buckets are made of the same examples.
@pytest.mark.parametrize(
    ('kind', 'workers'), [('sft', 1), ('sft', 3), ('pairs', 2), ('prompts', 2)]
)
def test_workers_change_nothing(stream, monkeypatch, kind, workers):
    monkeypatch.setattr(encoding, '_AT_ONCE', 8)
    here, there = stream(kind), stream(kind, workers=workers)
    for index in range(here.size):
        same(there.batches[index], here.batches[index])
    assert there.counts == here.counts
    assert there.counts['shortened_prompt'] == (34 if kind == 'prompts' else 0)
    same(there.lengths.all(), here.lengths.all())


@pytest.mark.parametrize('kind', KINDS)
def test_a_restart_at_any_step_goes_on_with_the_same_batches(stream, kind):
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    last = stream(kind).size + 3  # into another epoch

    alone = iter(stream(kind, seed=5).batches.to_iter_dataset(options))
    states, expected = [], []
    for _ in range(last):
        states.append(alone.get_state())
        expected.append(next(alone))
    started = stream(kind, seed=5).batches.to_iter_dataset(options)
    for step in range(last - 1):
        again = iter(started)
        again.set_state(states[step])
        for batch in expected[step : step + 2]:
            same(next(again), batch)


@pytest.mark.parametrize('kind', KINDS)
def test_each_epoch_and_seed_has_an_order_of_its_own(stream, kind):
    orders = []
    for seed in (1, 2):
        one, again = stream(kind, seed=seed), stream(kind, seed=seed)
        for first in range(0, 3 * one.size, one.size):
            order = one.rows(first, first + one.size)
            assert again.rows(first, first + one.size) == order
            orders.append(tuple(order))
    assert len(set(orders)) == 6
