"""Records as batches of fixed shape: tokenized once, shuffled, sharded, resumable.

Each stream is a `grain.MapDataset`: `ds[i]` is batch i, whatever was read before, and
the iterator of `ds.to_iter_dataset(...)` has `get_state` and `set_state` for
checkpoints. The rows of a global batch do not depend on the number of processes: each
process collates its part of the same batch.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import sys
from typing import Any, TypeVar

import grain
import numpy as np
from transformers import PreTrainedTokenizerBase

from beaver_jax import types
from beaver_jax.data import buckets as buckets_lib
from beaver_jax.data import card
from beaver_jax.data import constraints as constraints_lib
from beaver_jax.data import examples as examples_lib
from beaver_jax.data import packing
from beaver_jax.data import sources
from beaver_jax.data import store

Example = TypeVar('Example')
Batch = TypeVar('Batch')


def sft(
    records: Sequence[sources.Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    batch_size: int,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    once: bool = False,
    pack: bool = False,
    counts: sources.Counts | None = None,
    lengths: card.Lengths | None = None,
    workers: int = 0,
) -> grain.MapDataset[types.SftBatch]:
    """Batches of supervised conversations, right padded to `max_length`.

    Packed, a row holds as many conversations as fit, as segments (`packing`).

    Args:
        records: what to learn.
        tokenizer: from `tokenizer.load`.
        max_length: ids of a sequence; longer ones lose the response's end and EOS.
        batch_size: rows of a batch, over all processes.
        seed: of the order, which is another one in each epoch.
        shard: this process's index, and their number; a batch has its
            `batch_size / number` rows.
        once: one epoch in the records' order. Rows that fill up the last batch have an
            empty `loss_mask`. Otherwise the stream has no end.
        pack: several conversations to a row; not with `once`.
        counts: gets `examples`, their `longest`, `cut_response` and `no_response_left`;
            where they are packed their `tokens` and the rows of an epoch, `packed`.
        lengths: get those of all records, before anything is cut.
        workers: processes that tokenize; 0 for this one.

    Raises:
        DataError: no record fits.
        ValueError: the number of processes does not divide `batch_size`; or `pack` and
            `once`.
    """
    if pack and once:
        raise ValueError('pack=True and once=True: what is read once is not packed.')
    examples = examples_lib.encode_demonstrations(
        records,
        tokenizer,
        max_length=max_length,
        counts=counts,
        lengths=lengths,
        workers=workers,
    )
    if pack:
        sizes = examples.sizes[:, 0]
        bins = packing.Packing(sizes, max_length, seed)
        if counts is not None:
            counts['tokens'], counts['packed'] = int(sizes.sum()), len(bins)
        collate = functools.partial(
            _collate_packed, length=max_length, pad=tokenizer.pad_token_id
        )
        return _packed(examples, bins, collate, batch_size, shard)
    first = examples[0]
    filler = dataclasses.replace(first, loss_mask=np.zeros_like(first.loss_mask))
    collate = functools.partial(
        _collate_sft, length=max_length, pad=tokenizer.pad_token_id
    )
    return _stream(examples, filler if once else None, collate, batch_size, seed, shard)


def pairs(
    records: Sequence[sources.Comparison],
    tokenizer: PreTrainedTokenizerBase,
    *,
    preferred: sources.Need,
    max_length: int,
    batch_size: int,
    constraints: Sequence[constraints_lib.Constraint] = (constraints_lib.HARM,),
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    once: bool = False,
    counts: sources.Counts | None = None,
    lengths: card.Lengths | None = None,
    workers: int = 0,
) -> grain.MapDataset[types.PairBatch]:
    """Batches of pairs, the preferred sequence first, right padded to `max_length`.

    Args:
        records: comparisons whose preference is known.
        tokenizer: from `tokenizer.load`.
        preferred: which preference: 'better' or 'safer'; 'harms' where each constraint
            has its own.
        max_length: ids of a sequence; longer ones lose the response's end and EOS.
        batch_size: rows of a batch, over all processes.
        constraints: what the outputs of a cost model learn.
        seed: of the order, which is another one in each epoch.
        shard: this process's index, and their number; a batch has its
            `batch_size / number` rows.
        once: one epoch in the records' order. Rows that fill up the last batch are not
            `valid`. Otherwise the stream has no end.
        counts: gets `examples`, their `longest`, `cut_response` and `identical_tokens`.
        lengths: get those of all records, before anything is cut.
        workers: processes that tokenize; 0 for this one.

    Raises:
        DataError: no record fits.
        ValueError: the number of processes does not divide `batch_size`, or a record's
            preference is unknown.
    """
    examples = examples_lib.encode_pairs(
        records,
        tokenizer,
        preferred=preferred,
        max_length=max_length,
        constraints=constraints,
        counts=counts,
        lengths=lengths,
        workers=workers,
    )
    filler = dataclasses.replace(examples[0], valid=False)
    collate = functools.partial(
        _collate_pairs, length=max_length, pad=tokenizer.pad_token_id
    )
    return _stream(examples, filler if once else None, collate, batch_size, seed, shard)


def bucketed_pairs(
    examples: store.Stored[examples_lib.PairExample],
    *,
    pad: int,
    max_length: int,
    batch_size: int,
    buckets: int,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    counts: sources.Counts | None = None,
) -> tuple[grain.MapDataset[types.PairBatch], buckets_lib.Buckets]:
    """Batches of pairs of similar length, each right padded to that of its bucket.

    Args:
        examples: from `examples.encode_pairs`.
        pad: the id of padding.
        max_length: no bucket is longer.
        batch_size: rows of a batch, over all processes. An epoch is so many batches
            that each pair is in one of them; rows that fill up the last one are not
            `valid`.
        buckets: how many lengths there are, at most.
        seed: of the order, which is another one in each epoch.
        shard: as in `pairs`. Each process has batches of the same lengths.
        counts: gets `tokens`.

    Returns:
        (the stream, without end; its lengths and batches).

    Raises:
        ValueError: the number of processes does not divide `batch_size`.
    """
    part = _part(batch_size, shard)
    each = examples.sizes
    if counts is not None:
        counts['tokens'] = int(each.sum())
    sizes = each.max(axis=1)
    found = buckets_lib.Buckets(
        sizes,
        batch_size=batch_size,
        count=buckets,
        max_length=max_length,
        seed=seed,
    )
    filler = dataclasses.replace(examples[int(np.argmin(sizes))], valid=False)

    def batch(index: int) -> types.PairBatch:
        length, rows = found.batch(index)
        chosen = [
            filler if row == buckets_lib.NOTHING else examples[row]
            for row in rows[part]
        ]
        return _collate_pairs(chosen, length=length, pad=pad)

    return _by_index(batch), found


def prompts(
    records: Sequence[sources.Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_length: int,
    batch_size: int,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    once: bool = False,
    counts: sources.Counts | None = None,
    lengths: card.Lengths | None = None,
    workers: int = 0,
) -> grain.MapDataset[types.PromptBatch]:
    """Batches of prompts, left padded to `max_prompt_length`.

    Args:
        records: what to answer.
        tokenizer: from `tokenizer.load`.
        max_prompt_length: ids of a prompt; longer ones are shortened inside the user's
            text.
        batch_size: rows of a batch, over all processes.
        seed: of the order, which is another one in each epoch.
        shard: this process's index, and their number; a batch has its
            `batch_size / number` rows.
        once: one epoch in the records' order. Rows that fill up the last batch have
            `row` -1. Otherwise the stream has no end.
        counts: gets `examples`, their `longest`, and `shortened_prompt`.
        lengths: get those of all records, before anything is cut.
        workers: processes that tokenize; 0 for this one.

    Raises:
        DataError: there are no records.
        ValueError: the number of processes does not divide `batch_size`, or
            `max_prompt_length` leaves no room for a question.
    """
    examples = examples_lib.encode_prompts(
        records,
        tokenizer,
        max_prompt_length=max_prompt_length,
        counts=counts,
        lengths=lengths,
        workers=workers,
    )
    filler = dataclasses.replace(examples[0], row=-1)
    collate = functools.partial(
        _collate_prompts, length=max_prompt_length, pad=tokenizer.pad_token_id
    )
    return _stream(examples, filler if once else None, collate, batch_size, seed, shard)


def _stream(
    examples: Sequence[Example],
    filler: Example | None,
    collate: Callable[[Sequence[Example]], Batch],
    batch_size: int,
    seed: int,
    shard: tuple[int, int],
) -> grain.MapDataset[Batch]:
    """Batches without end, or, with a `filler` for the last one, of one epoch.

    A batch may span epochs, and holds a row twice where there are fewer than its size.
    """
    part = _part(batch_size, shard)
    if filler is not None:
        size = len(examples)
        rows = grain.MapDataset.range(size + -size % batch_size).map(
            lambda index: examples[index] if index < size else filler
        )
    else:
        # Grain adds the epoch's number to the seed; mixed first, neighbouring seeds do
        # not share their orders.
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        rows = grain.MapDataset.source(examples).shuffle(mixed).repeat()
    return rows.batch(batch_size, batch_fn=lambda batch: collate(batch[part]))


def _packed(
    examples: Sequence[Example],
    bins: packing.Packing,
    collate: Callable[[Sequence[Sequence[Example]]], Batch],
    batch_size: int,
    shard: tuple[int, int],
) -> grain.MapDataset[Batch]:
    """Batches of bins without end, which may span epochs."""
    part = _part(batch_size, shard)

    def batch(index: int) -> Batch:
        rows = range(index * batch_size, (index + 1) * batch_size)[part]
        return collate([[examples[i] for i in bins.sequences(row)] for row in rows])

    return _by_index(batch)


def _by_index(batch: Callable[[int], Batch]) -> grain.MapDataset[Batch]:
    """A stream without end of what a function makes of each index."""
    return grain.MapDataset.range(sys.maxsize).map(batch)


def _part(batch_size: int, shard: tuple[int, int]) -> slice:
    """This process's rows of a batch."""
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(
            f'shard={shard} is not (index, count) with 0 <= index < count.'
        )
    if batch_size < 1 or batch_size % count:
        raise ValueError(
            f'batch_size={batch_size} does not divide among {count} processes; use a '
            f'multiple of {count}.'
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def _pad(
    sequences: Sequence[np.ndarray], length: int, pad: int, *, left: bool = False
) -> tuple[Any, Any]:
    """Stacks sequences of B lengths to [B, length], with the mask of what is real.

    The arrays are NumPy's; the batches' fields say `jax.Array`, which they become on
    the device. Hence `Any`.
    """
    stacked = np.full((len(sequences), length), pad, sequences[0].dtype)
    mask = np.zeros((len(sequences), length), bool)
    for row, sequence in enumerate(sequences):
        size = len(sequence)
        where = slice(length - size, length) if left else slice(size)
        stacked[row, where] = sequence
        mask[row, where] = True
    return stacked, mask


def _collate_sft(
    examples: Sequence[examples_lib.SftExample], *, length: int, pad: int
) -> types.SftBatch:
    tokens, mask = _pad([example.tokens for example in examples], length, pad)
    loss_mask, _ = _pad([example.loss_mask for example in examples], length, False)
    return types.SftBatch(tokens=tokens, mask=mask, loss_mask=loss_mask)


def _collate_packed(
    rows: Sequence[Sequence[examples_lib.SftExample]], *, length: int, pad: int
) -> types.SftBatch:
    shape = len(rows), length
    tokens: Any = np.full(shape, pad, np.int32)
    loss_mask: Any = np.zeros(shape, bool)
    segments: Any = np.zeros(shape, np.int32)
    for row, examples in enumerate(rows):
        end = 0
        for number, example in enumerate(examples, start=1):
            start, end = end, end + len(example.tokens)
            tokens[row, start:end] = example.tokens
            # The first token is not predicted: it follows another segment.
            loss_mask[row, start + 1 : end] = example.loss_mask[1:]
            segments[row, start:end] = number
    return types.SftBatch(
        tokens=tokens, mask=segments > 0, loss_mask=loss_mask, segments=segments
    )


def _collate_pairs(
    examples: Sequence[examples_lib.PairExample], *, length: int, pad: int
) -> types.PairBatch:
    flat = [tokens for example in examples for tokens in example.tokens]
    tokens, mask = _pad(flat, length, pad)
    signs: Any = np.stack([example.safety_sign for example in examples])
    orders = [example.order for example in examples if example.order is not None]
    order: Any = np.stack(orders) if orders else None
    valid: Any = np.array([example.valid for example in examples])
    return types.PairBatch(
        tokens=tokens.reshape(-1, 2, length),
        mask=mask.reshape(-1, 2, length),
        safety_sign=signs,
        valid=valid,
        order=order,
    )


def _collate_prompts(
    examples: Sequence[examples_lib.PromptExample], *, length: int, pad: int
) -> types.PromptBatch:
    sequences = [example.tokens for example in examples]
    tokens, mask = _pad(sequences, length, pad, left=True)
    row: Any = np.array([example.row for example in examples], np.int32)
    return types.PromptBatch(tokens=tokens, mask=mask, row=row)
