"""What all streams of batches have in common, whatever is in them."""

import collections
from collections.abc import Callable
import functools
from typing import Any

import grain
import jax
import numpy as np
import pytest

from beaver_jax.data import encoding
from tests import streams
from tests import vocabularies


@pytest.fixture(scope='module')
def stream(tmp_path_factory) -> Callable[..., streams.Stream]:
    """Makes a stream of a kind."""
    tokenizer = vocabularies.characters(tmp_path_factory.mktemp('tokenizer'))
    return functools.partial(streams.make, tokenizer=tokenizer)


def same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@pytest.mark.parametrize('processes', [1, 2, 4])
@pytest.mark.parametrize('kind', streams.KINDS)
def test_an_epoch_has_each_row_once_over_all_processes(stream, kind, processes):
    whole = stream(kind)
    shards = [stream(kind, shard=(i, processes)) for i in range(processes)]
    found: collections.Counter = collections.Counter()
    for index in range(whole.size):
        parts = [shard.batches[index] for shard in shards]
        same(joined(parts), whole.batches[index])
        for part in parts:
            assert len(part.tokens) == streams.BATCH_SIZE // processes
            found.update(streams.rows(part))
    assert len(found) == len(streams.ROWS)
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


@pytest.mark.parametrize('kind', streams.KINDS)
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


@pytest.mark.parametrize('kind', streams.KINDS)
def test_each_epoch_and_seed_has_an_order_of_its_own(stream, kind):
    orders = []
    for seed in (1, 2):
        one, again = stream(kind, seed=seed), stream(kind, seed=seed)
        for first in range(0, 3 * one.size, one.size):
            order = one.rows(first, first + one.size)
            assert again.rows(first, first + one.size) == order
            orders.append(tuple(order))
    assert len(set(orders)) == 6
