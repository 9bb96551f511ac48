"""Streams of batches of every kind, of a few rows, for tests of all of them."""

import dataclasses
from typing import Any

import grain
import transformers

from beaver_jax.data import batches
from beaver_jax.data import card
from beaver_jax.data import examples
from beaver_jax.data import sources

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


def make(
    kind: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    *,
    workers: int = 0,
    **options: Any,
) -> Stream:
    """A stream of a kind, of ROWS.

    Args:
      kind: One of KINDS.
      tokenizer: Of characters.
      workers: Processes that tokenize.
      **options: `seed` and `shard`.
    """
    counts, lengths = sources.Counts(), card.Lengths()
    options |= {'batch_size': BATCH_SIZE}
    told = {'counts': counts, 'lengths': lengths, 'workers': workers}
    limit = {'max_length': MAX_LENGTH}
    size, epochs = len(ROWS) // BATCH_SIZE, 1
    if kind in ('sft', 'packed'):
        records = [sources.Demonstration((q,), a, q) for q, a, _ in ROWS]
        pack = kind == 'packed'
        found = batches.sft(records, tokenizer, pack=pack, **limit, **told, **options)
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
            found = batches.pairs(records, tokenizer, **preferred, **told, **options)
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
