"""Records as token ids: what a batch is made of, before padding.

With `workers` above 0, so many processes tokenize; their number changes nothing else.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
from typing import TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from beaver_jax.data import card
from beaver_jax.data import constraints as constraints_lib
from beaver_jax.data import encoding
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import store
from beaver_jax.data import tokenizer as tokenizer_lib

Example = TypeVar('Example')


@dataclasses.dataclass(frozen=True)
class SftExample:
    """A tokenized conversation."""

    tokens: np.ndarray  # [T] int32
    loss_mask: np.ndarray  # [T] bool, True in the assistant's turns, their EOS included


@dataclasses.dataclass(frozen=True)
class PairExample:
    """Two tokenized sequences, the preferred one first."""

    tokens: tuple[np.ndarray, np.ndarray]  # [T] int32 each
    safety_sign: np.ndarray  # [2, K] int32: +1 safe, -1 unsafe, 0 unknown
    valid: bool = True
    # [K] int32: +1 the first is the safer one, -1 the other, 0 unknown; None: all +1
    order: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class PromptExample:
    """A tokenized prompt."""

    tokens: np.ndarray  # [P] int32
    row: int  # its index among the records


def encode_demonstrations(
    records: Iterable[sources.Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    counts: sources.Counts | None = None,
    lengths: card.Lengths | None = None,
    workers: int = 0,
) -> store.Stored[SftExample]:
    """Tokenizes conversations; the cut and the dropped are counted (`batches.sft`)."""
    counts = sources.Counts() if counts is None else counts
    lengths = card.Lengths() if lengths is None else lengths
    conversations = tokenizer_lib.encode_conversations(
        tokenizer,
        ((*record.prompt, record.response) for record in records),
        workers=workers,
    )

    def examples() -> Iterator[bytes]:
        for turns in conversations:
            sizes = [*map(len, turns)]
            lengths.add(sum(sizes[:-1]), sizes[-1])
            if sizes[0] >= max_length:
                counts['no_response_left'] += 1
                continue
            counts['cut_response'] += sum(sizes) > max_length
            yield _sft_bytes(turns, max_length)

    with contextlib.closing(conversations):
        stored = store.collect(examples(), _sft_length, dumps=bytes, loads=_sft_example)
        return _checked(stored, f'max_length={max_length}', counts)


def encode_pairs(
    records: Iterable[sources.Comparison],
    tokenizer: PreTrainedTokenizerBase,
    *,
    preferred: sources.Need,
    max_length: int,
    constraints: Sequence[constraints_lib.Constraint] = (constraints_lib.HARM,),
    counts: sources.Counts | None = None,
    lengths: card.Lengths | None = None,
    workers: int = 0,
) -> store.Stored[PairExample]:
    """Tokenizes pairs; the cut and the dropped are counted (`batches.pairs`)."""
    alone = tuple(constraints) == (constraints_lib.HARM,)
    rows.check_choice('preferred', preferred, sources.Need)
    counts = sources.Counts() if counts is None else counts
    lengths = card.Lengths() if lengths is None else lengths
    # Each record is read once.
    records, of_texts = itertools.tee(records)
    answered = tokenizer_lib.encode_answered(
        tokenizer,
        ((record.prompt, record.responses) for record in of_texts),
        workers=workers,
    )

    def examples() -> Iterator[PairExample]:
        for record, (turns, said) in zip(records, answered, strict=True):
            first = _first(record, preferred)
            prompt = encoding.joined(turns)
            lengths.add(len(prompt), *map(len, said))
            full = [prompt + said[first], prompt + said[1 - first]]
            one, other = (np.array(tokens[:max_length]) for tokens in full)
            if np.array_equal(one, other):
                counts['identical_tokens'] += 1
                continue
            counts['cut_response'] += sum(len(tokens) > max_length for tokens in full)
            labels = [constraint.labels(record, first) for constraint in constraints]
            signs = np.array([sign for _, sign in labels], np.int32).T
            order = None if alone else np.array([o for o, _ in labels], np.int32)
            yield PairExample((one, other), signs, order=order)

    with contextlib.closing(answered):
        stored = store.collect(examples(), _lengths)
        return _checked(stored, f'max_length={max_length}', counts)


def encode_prompts(
    records: Iterable[sources.Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_length: int,
    counts: sources.Counts | None = None,
    lengths: card.Lengths | None = None,
    workers: int = 0,
) -> store.Stored[PromptExample]:
    """Tokenizes prompts; shortened ones are counted (`batches.prompts`)."""
    counts = sources.Counts() if counts is None else counts
    lengths = card.Lengths() if lengths is None else lengths
    prompts = tokenizer_lib.encode_prompts(
        tokenizer,
        (record.prompt for record in records),
        max_length=max_prompt_length,
        workers=workers,
    )

    def examples() -> Iterator[PromptExample]:
        for row, (length, tokens) in enumerate(prompts):
            lengths.add(length)
            counts['shortened_prompt'] += length > max_prompt_length
            yield PromptExample(np.array(tokens), row)

    with contextlib.closing(prompts):
        stored = store.collect(examples(), _length)
        return _checked(stored, f'max_prompt_length={max_prompt_length}', counts)


def _first(record: sources.Comparison, preferred: sources.Need) -> int:
    if preferred == 'harms':
        return 0  # each constraint has an order of its own
    first = record.better if preferred == 'better' else record.safer
    if first is None:
        raise ValueError(
            f'{record.where}: which response is {preferred} is unknown; read the file '
            f'with need={preferred!r}.'
        )
    return first


def _length(example: PromptExample) -> tuple[int]:
    return (len(example.tokens),)


def _lengths(example: PairExample) -> tuple[int, int]:
    one, other = example.tokens
    return len(one), len(other)


def _sft_bytes(turns: Sequence[encoding.Ids], most: int) -> bytes:
    """Tokens, at most so many, of 4 bytes each, and their mask of one."""
    mask = b''.join([bytes([i % 2]) * len(turn) for i, turn in enumerate(turns)])
    return b''.join(turns)[: 4 * most] + mask[:most]


def _sft_length(data: bytes) -> tuple[int]:
    return (len(data) // 5,)


def _sft_example(data: bytes) -> SftExample:
    (count,) = _sft_length(data)
    return SftExample(
        np.frombuffer(data, np.int32, count),
        np.frombuffer(data, bool, count, 4 * count),
    )


def _checked(
    stored: store.Stored[Example], limit: str, counts: sources.Counts
) -> store.Stored[Example]:
    """The examples, counted; `limit` is what may have left none."""
    counts['longest'] = int(stored.sizes.max(initial=0))
    if not stored:
        found = ', '.join(
            f'{count} {rows.COUNTED[name]}' for name, count in counts.items() if count
        )
        raise sources.DataError(
            f'No row is left under {limit} ({found or "none was given"}); raise it, or '
            'give other data.'
        )
    counts['examples'] += len(stored)
    return stored
