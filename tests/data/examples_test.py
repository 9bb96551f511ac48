"""Tokenized rows, as they come back from their file."""

import numpy as np

from beaver_jax.data import examples
from beaver_jax.data import sources
from tests import vocabularies


def test_demonstrations_keep_tokens_and_mask(tmp_path):
    tokenizer = vocabularies.characters(tmp_path)
    records = [
        sources.Demonstration(('Why?',), answer, 'x') for answer in ('abc', 'a', 'b')
    ]
    found = examples.encode_demonstrations(records, tokenizer, max_length=99)
    # BOS and one token a character, then the answer and its EOS.
    prompt = 1 + len('BEGINNING OF CONVERSATION: USER: Why? ASSISTANT:')
    for example, answer in zip(found, ('abc', 'a', 'b'), strict=True):
        assert example.tokens.dtype == np.int32
        assert example.loss_mask.dtype == bool
        assert tokenizer.decode(example.tokens[prompt:-1]) == answer
        assert example.tokens[-1] == tokenizer.eos_token_id
        size = len(answer) + 1
        np.testing.assert_array_equal(
            example.loss_mask, [False] * prompt + [True] * size
        )
    (second,) = found.take([1])
    np.testing.assert_array_equal(second.tokens, found[1].tokens)
