"""Conversations in the ids of a score model that has a tokenizer of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from beaver_jax import types
from beaver_jax.data import tokenizer as tokenizer_lib


def reencode(
    conversations: Sequence[Sequence[str]],
    ended: Sequence[bool],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
) -> tuple[types.Sequences, np.ndarray]:
    """Encodes whole conversations in a tokenizer's own ids and template.

    One that is too long loses of its prompt what `tokenizer.encode_prompt` would drop
    of it, and then the start of its answer: the end, where it is scored, stays.

    Args:
        conversations: B of them; texts that go user, assistant, ..., assistant.
        ended: whether each last answer ended; one that was cut by length has no EOS.
        tokenizer: from `tokenizer.load`.
        length: T, to which all are right padded.

    Returns:
        (B sequences of NumPy arrays, [B] bool: which of them were too long).

    Raises:
        ValueError: `length` leaves no room for a question.
    """
    tokens = np.full((len(conversations), length), tokenizer.pad_token_id, np.int32)
    mask = np.zeros((len(conversations), length), bool)
    cut = np.zeros(len(conversations), bool)
    for row, (turns, whole) in enumerate(zip(conversations, ended, strict=True)):
        ids, cut[row] = _encode(turns, whole, tokenizer, length)
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    # They become jax's on the device, as the fields say.
    rows: Any = tokens, mask
    return types.Sequences(*rows), cut


def _encode(
    turns: Sequence[str], ended: bool, tokenizer: PreTrainedTokenizerBase, length: int
) -> tuple[list[int], bool]:
    *pieces, answer = tokenizer_lib.encode_turns(tokenizer, turns)
    prompt = [token for piece in pieces for token in piece]
    answer = answer if ended else answer[:-1]
    if len(prompt) + len(answer) <= length:
        return prompt + answer, False
    bare = tokenizer_lib.encode_prompt(tokenizer, ('',), max_length=length)
    prompt = tokenizer_lib.encode_prompt(
        tokenizer, turns[:-1], max_length=max(length - len(answer), len(bare))
    )
    excess = len(prompt) + len(answer) - length
    return prompt + answer[max(excess, 0) :], True
