"""Texts to ids: what they stand after, and whatever settings a tokenizer has."""

import pytest
import tokenizers
import transformers

from beaver_jax.data import encoding
from beaver_jax.data import tokenizer as tokenizer_lib
from tests import vocabularies

END = '<|endoftext|>'
TEXT = f'What is {END} here? '


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp('gpt2')
    return tokenizer_lib.load(vocabularies.byte_level(directory, 'gpt2'))


def test_settings_that_others_left_change_nothing(tokenizer):
    whole = encoding.plain(tokenizer, [TEXT] * 2)
    tokenizer([TEXT], truncation=True, max_length=3)
    assert encoding.plain(tokenizer, [TEXT] * 2) == whole
    tokenizer([TEXT, 'a'], padding=True)
    assert encoding.plain(tokenizer, ['a', TEXT]) == [
        encoding.as_ids(tokenizer('a')['input_ids']),
        whole[0],
    ]


def test_each_of_many_texts_stands_after_what_lets_it(tmp_path):
    # A text begins with '_', and 'x' merges with a ':' before it.
    symbols = ['</s>', '_', ':', 'n', 'x', 'y', ':x']
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[(':', 'x')]))
    fast.normalizer = tokenizers.normalizers.Prepend('_')
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, eos_token='</s>'
    )
    said = [
        ('xy', (':', 'n')),
        ('yx', (':', 'n')),
        ('xx', (':',)),
        ('n', ()),
        ('', ('n',)),
    ]
    found = encoding.after(tokenizer, said)
    texts = [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in found]
    assert texts == [['x', 'y'], ['y', 'x'], ['_', 'x', 'x'], ['_', 'n'], []]
    assert encoding.after(tokenizer, []) == []


def test_a_tokenizer_that_is_not_fast_gives_the_same_ids(tmp_path):
    fast = vocabularies.characters(tmp_path)
    slow = transformers.GPTSw3Tokenizer(str(tmp_path / 'tokenizer.model'))
    assert not slow.is_fast
    texts = ['Who is there?', '', 'it']
    assert encoding.plain(slow, texts) == encoding.plain(fast, texts)
