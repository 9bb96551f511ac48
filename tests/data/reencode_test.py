"""Conversations in the ids of another tokenizer."""

import numpy as np
import pytest

from beaver_jax.data import bpe
from beaver_jax.data import reencode
from beaver_jax.data import tokenizer as tokenizer_lib
from tests import vocabularies

TURNS = ('How do I bake bread?', 'Mix the flour and the water.')


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp('pieces')
    bpe.train(vocabularies.TEXTS, directory, vocab_size=120)
    return tokenizer_lib.load(directory)


def ids_of(tokenizer, turns):
    return [
        id for piece in tokenizer_lib.encode_turns(tokenizer, turns) for id in piece
    ]


def rows(sequences):
    pairs = zip(sequences.tokens, sequences.mask, strict=True)
    return [tokens[mask].tolist() for tokens, mask in pairs]


def test_the_ids_are_those_of_the_text(tokenizer):
    dialogue = ('Who is there?', 'Me.', 'Why?', '')
    found, cut = reencode.reencode(
        [TURNS, dialogue], [True, True], tokenizer, length=120
    )
    assert rows(found) == [ids_of(tokenizer, TURNS), ids_of(tokenizer, dialogue)]
    assert found.tokens.shape == found.mask.shape == (2, 120)
    assert found.mask[:, 0].all()  # right padded
    assert cut.tolist() == [False, False]


def test_an_answer_without_an_end_gets_none(tokenizer):
    found, _ = reencode.reencode([TURNS], [False], tokenizer, length=120)
    assert rows(found) == [ids_of(tokenizer, TURNS)[:-1]]


def test_padding_that_is_the_eos_hides_no_eos(tmp_path):
    tokenizer = tokenizer_lib.load(vocabularies.byte_level(tmp_path, 'gpt2'))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    found, _ = reencode.reencode([TURNS], [True], tokenizer, length=200)
    (ids,) = rows(found)
    assert ids == ids_of(tokenizer, TURNS)
    assert ids[-1] == tokenizer.eos_token_id


def test_what_is_too_long_keeps_its_end(tokenizer):
    whole = ids_of(tokenizer, TURNS)
    answer = tokenizer_lib.encode_response(tokenizer, TURNS[1])
    bare = tokenizer_lib.encode_prompt(tokenizer, ('',), max_length=99)
    for length in range(len(bare) + 1, len(whole) + 2):
        found, cut = reencode.reencode([TURNS], [True], tokenizer, length=length)
        (ids,) = rows(found)
        assert cut.tolist() == [length < len(whole)]
        kept = len(ids) - max(length - len(answer), len(bare))
        # The question goes first, and what stays of the answer is its end.
        if length >= len(bare) + len(answer):
            assert ids[-len(answer) :] == answer
            prompt = tokenizer_lib.encode_prompt(
                tokenizer, TURNS[:1], max_length=length - len(answer)
            )
            assert ids == prompt + answer
        else:
            assert ids == bare + answer[-kept:]
            assert len(ids) == length


def test_no_room_for_the_template(tokenizer):
    with pytest.raises(ValueError, match='max_length=5 leaves no room'):
        reencode.reencode([TURNS], [True], tokenizer, length=5)


def test_arrays_are_static(tokenizer):
    found, _ = reencode.reencode([TURNS] * 3, [True] * 3, tokenizer, length=77)
    assert found.tokens.dtype == np.int32
    assert found.mask.dtype == bool
    assert (found.tokens[~found.mask] == tokenizer.pad_token_id).all()
