"""A model that answers, token by token."""

import jax

from beaver_jax.chat import talker as talker_lib
from beaver_jax.data import tokenizer as tokenizer_lib
from tests.chat import conftest
from tests.chat import greedy

QUESTION = 'Sir, how do I make tea?'


def test_streaming_gives_what_generation_gives(model, talker):
    ids = tokenizer_lib.encode_prompt(talker.tokenizer, (QUESTION,), max_length=99)
    parts = list(talker.stream(ids))
    assert parts[-1] == greedy.answer(model, ids, 12)
    # One token more each time.
    assert parts == [parts[-1][: len(part)] for part in parts]
    assert [len(part) for part in parts][:3] == [1, 2, 3]


def test_it_talks_in_bfloat16(model, talker):
    ids = tokenizer_lib.encode_prompt(talker.tokenizer, (QUESTION,), max_length=99)
    narrow = talker_lib.Talker(
        model, conftest.GREEDY, max_new_tokens=4, dtype='bfloat16'
    )
    assert {str(x.dtype) for x in jax.tree.leaves(narrow._params)} == {'bfloat16'}
    *_, answer = narrow.stream(ids)
    assert answer == greedy.answer(model, ids, 4, 'bfloat16')


def test_an_answer_may_fill_half_of_the_positions(model):
    assert talker_lib.Talker(model, conftest.GREEDY).context == 64  # of 128
