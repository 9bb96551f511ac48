"""Texts to ids where nothing that people wrote becomes a special token.

All take many texts: a fast tokenizer encodes a list in an eighth of the time that it
takes for one text after the other. Ids are arrays: a list of Python's ints takes nine
times the room.
"""

import array
from collections.abc import Callable, Generator, Iterable, Sequence
import contextlib
import functools
import itertools
import struct
from typing import TypeAlias, TypeVar

from transformers import PreTrainedTokenizerBase

from beaver_jax.data import workers as workers_lib

_AT_ONCE = 256
Item = TypeVar('Item')
Encoded = TypeVar('Encoded')
Ids: TypeAlias = 'array.array[int]'  # of int32


def plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """Ids of each text, without BOS and EOS and with every character as plain text."""
    return _encode(tokenizer, texts, split_special_tokens=True)


def after(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[tuple[str, Sequence[str]]]
) -> list[Ids]:
    """Ids of each text as it stands after the first of some others that lets it.

    One does if no token spans its border with the text. Where none does, the text is
    encoded apart.

    Args:
        tokenizer: from `tokenizer.load`.
        said: (text, what it may stand after, the best one first).
    """
    found: dict[int, Ids] = {}
    for attempt in range(1 + max((len(befores) for _, befores in said), default=0)):
        left = {
            i: befores[attempt] if attempt < len(befores) else ''
            for i, (_, befores) in enumerate(said)
            if i not in found
        }
        heads = list(dict.fromkeys(before for before in left.values() if before))
        # All at once: while a call of the tokenizer begins and ends, cores are idle.
        encoded = plain(
            tokenizer, [*heads, *(before + said[i][0] for i, before in left.items())]
        )
        head_ids = dict(zip(heads, encoded[: len(heads)], strict=True)) | {'': as_ids()}
        for (i, before), ids in zip(left.items(), encoded[len(heads) :], strict=True):
            size = len(head_ids[before])
            if ids[:size] == head_ids[before]:
                found[i] = ids[size:]
    return [found[i] for i in range(len(said))]


def between(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[tuple[str, str, str]]
) -> list[Ids]:
    """Ids of what people wrote between two texts that may hold special tokens.

    They are the ids of the whole, unless a person wrote a special token: then each of
    the three is encoded apart, and what was written stays plain text.

    Args:
        tokenizer: from `tokenizer.load`.
        said: (text before, what a person wrote, text behind).
    """
    tokens = special(tokenizer)
    apart = [any(token in text for token in tokens) for _, text, _ in said]
    whole = iter(
        _encode(
            tokenizer,
            [''.join(texts) for texts, a in zip(said, apart, strict=True) if not a],
        )
    )
    return [
        _between_apart(tokenizer, *texts) if is_apart else next(whole)
        for texts, is_apart in zip(said, apart, strict=True)
    ]


def special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The texts of all special tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}


def as_ids(tokens: Sequence[int] = ()) -> Ids:
    """Ids as the functions here return them."""
    # In half the time that `array` takes for a list.
    return array.array('i', struct.pack(f'{len(tokens)}i', *tokens))


def joined(pieces: Iterable[Ids]) -> Ids:
    """Ids one after the other."""
    whole = as_ids()
    for piece in pieces:
        whole.extend(piece)
    return whole


def many(
    encode: Callable[[PreTrainedTokenizerBase, Sequence[Item]], Sequence[Encoded]],
    tokenizer: PreTrainedTokenizerBase,
    items: Iterable[Item],
    workers: int,
) -> Generator[Encoded]:
    """What `encode` makes of each item, in order; memory does not grow with them.

    Args:
        encode: a function of a module, that takes so many items as go at once.
        tokenizer: from `tokenizer.load`.
        items: texts, or tuples of them.
        workers: processes that encode, which end with the iterator; 0 for this one. See
            `workers.mapped` for errors.
    """
    left = iter(items)
    chunks = iter(lambda: list(itertools.islice(left, _AT_ONCE)), [])
    found = workers_lib.mapped(functools.partial(encode, tokenizer), chunks, workers)
    with contextlib.closing(found):
        for chunk in found:
            yield from chunk


def _between_apart(
    tokenizer: PreTrainedTokenizerBase, before: str, text: str, behind: str
) -> Ids:
    head, tail = _encode(tokenizer, [before, behind])
    (middle,) = plain(tokenizer, [text])
    return joined([head, middle, tail] if behind else [head, middle])


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    split_special_tokens: bool = False,
) -> list[Ids]:
    if not texts:
        return []
    if tokenizer.is_fast:
        # Without the offsets and masks that a call of the tokenizer finds too.
        fast = tokenizer.backend_tokenizer
        fast.no_truncation()
        fast.no_padding()
        fast.encode_special_tokens = split_special_tokens
        found = fast.encode_batch_fast(list(texts), add_special_tokens=False)
        return [as_ids(encoding.ids) for encoding in found]
    slow = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=split_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [*map(as_ids, slow['input_ids'])]
