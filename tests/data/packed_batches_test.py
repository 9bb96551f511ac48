"""Packed supervised batches: what is in them, their order, shards and position."""

import collections
import dataclasses

import grain
import jax
import numpy as np
import pytest

from beaver_jax.data import batches
from beaver_jax.data import sources
from beaver_jax.data import store
from beaver_jax.data import tokenizer as tokenizer_lib
from tests import vocabularies

# A row's length is 45 for the template, 1 for EOS and these: from 48 to 63.
RECORDS = [
    sources.Demonstration(('Why?'[: 1 + i % 4],), 'abcdefghijkl'[: 1 + i % 12], str(i))
    for i in range(40)
]
MAX_LENGTH = 160  # three of the short ones, or two


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return vocabularies.characters(tmp_path_factory.mktemp('tokenizer'))


def stream(tokenizer, *, batch_size=4, records=RECORDS, **options):
    return batches.sft(
        records,
        tokenizer,
        max_length=MAX_LENGTH,
        batch_size=batch_size,
        pack=True,
        **options,
    )


def sequences(batch):
    """(tokens, loss mask) of every segment, as bytes."""
    for tokens, learnt, segments in zip(
        batch.tokens, batch.loss_mask, batch.segments, strict=True
    ):
        for number in range(1, segments.max() + 1):
            part = segments == number
            yield tokens[part].tobytes(), learnt[part].tobytes()


def test_a_row_by_hand(tokenizer):
    records = RECORDS[:2]
    counts = sources.Counts()
    packed = stream(tokenizer, records=records, batch_size=1, counts=counts)
    alone = batches.sft(
        records, tokenizer, max_length=MAX_LENGTH, batch_size=2, once=True
    )[0]
    # 45 + 1 + 1 + 1 = 48 and 45 + 2 + 2 + 1 = 50: the longer one is placed first.
    lengths = alone.mask.sum(1)
    np.testing.assert_array_equal(lengths, [48, 50])
    assert +counts == {'examples': 2, 'longest': 50, 'tokens': 98, 'packed': 1}
    batch = packed[0]
    np.testing.assert_array_equal(
        batch.segments[0], [1] * 50 + [2] * 48 + [0] * (MAX_LENGTH - 98)
    )
    assert (batch.segments.dtype, batch.tokens.dtype) == (np.int32, np.int32)
    np.testing.assert_array_equal(batch.mask, batch.segments > 0)
    np.testing.assert_array_equal(batch.tokens[0, :50], alone.tokens[1, :50])
    np.testing.assert_array_equal(batch.tokens[0, 50:98], alone.tokens[0, :48])
    assert (batch.tokens[0, 98:] == tokenizer.pad_token_id).all()
    np.testing.assert_array_equal(batch.loss_mask[0, 50:98], alone.loss_mask[0, :48])
    assert not batch.loss_mask[0, 98:].any()


def test_the_first_token_of_a_segment_is_never_learnt(tokenizer, monkeypatch):
    encode = batches.examples_lib.encode_demonstrations

    def all_learnt(*args, **options):
        examples = [
            dataclasses.replace(example, loss_mask=np.ones_like(example.loss_mask))
            for example in encode(*args, **options)
        ]
        return store.collect(examples, lambda example: (len(example.tokens),))

    monkeypatch.setattr(batches.examples_lib, 'encode_demonstrations', all_learnt)
    batch = stream(tokenizer)[0]
    first = np.diff(batch.segments, prepend=0) > 0
    np.testing.assert_array_equal(batch.loss_mask, batch.mask & ~first)


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_an_epoch_has_each_row_once_over_all_processes(tokenizer, processes):
    counts = sources.Counts()
    whole = stream(tokenizer, counts=counts)
    rows = collections.Counter(
        x
        for batch in batches.sft(
            RECORDS, tokenizer, max_length=MAX_LENGTH, batch_size=4, once=True
        )
        for i in range(4)
        for x in [(batch.tokens[i][batch.mask[i]].tobytes(), batch.loss_mask[i].any())]
    )
    bins = counts['packed']
    assert counts['examples'] == 40
    parts = [stream(tokenizer, shard=(i, processes)) for i in range(processes)]
    found: collections.Counter = collections.Counter()
    # Four epochs of batches of four bins are as many batches as an epoch has bins.
    for index in range(bins):
        shards = [part[index] for part in parts]
        both = jax.tree.map(lambda *x: np.concatenate(x), *shards)
        jax.tree.map(np.testing.assert_array_equal, both, whole[index])
        found.update((tokens, True) for tokens, _ in sequences(both))
    assert found == {row: 4 * count for row, count in rows.items()}


def test_orders_differ_between_epochs_and_seeds(tokenizer):
    counts = sources.Counts()
    one, same, other = (stream(tokenizer, seed=s, counts=counts) for s in (1, 1, 2))
    epoch = range(counts['packed'])  # four epochs
    texts = [[tuple(sequences(x[i])) for i in epoch] for x in (one, same, other)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert len(set(texts[0])) == len(texts[0])


def test_position_is_saved_and_restored(tokenizer):
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    iterator = iter(stream(tokenizer, seed=5).to_iter_dataset(options))
    for _ in range(9):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(9)]
    again = iter(stream(tokenizer, seed=5).to_iter_dataset(options))
    again.set_state(state)
    for index, batch in enumerate(expected):
        jax.tree.map(np.testing.assert_array_equal, next(again), batch)
        jax.tree.map(
            np.testing.assert_array_equal, stream(tokenizer, seed=5)[9 + index], batch
        )


def test_what_is_read_once_is_not_packed(tokenizer):
    with pytest.raises(ValueError, match='pack=True and once=True'):
        stream(tokenizer, once=True)


def test_processes_must_divide_the_batch(tokenizer):
    with pytest.raises(ValueError, match='does not divide among 3 processes'):
        stream(tokenizer, shard=(0, 3))


@pytest.mark.parametrize('max_length', [512, 2048])
def test_real_rows_fill_their_sequences(shared_data, max_length):
    tokenizer = tokenizer_lib.load(shared_data / 'stories260K' / 'hf')
    path = shared_data / 'alpaca_sft' / 'alpaca_en_demo.json'
    counts = sources.Counts()
    packed = batches.sft(
        sources.demonstrations(path),
        tokenizer,
        max_length=max_length,
        batch_size=1,
        pack=True,
        counts=counts,
    )
    assert counts['examples'] + counts['no_response_left'] == 999
    tokens = rows = 0
    for index in range(counts['packed']):
        batch = packed[index]
        tokens += int(batch.mask.sum())
        rows += int(batch.segments.max())
    assert (tokens, rows) == (counts['tokens'], counts['examples'])
    assert tokens / (counts['packed'] * max_length) > 0.98
