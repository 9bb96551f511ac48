"""Texts to ids: settings of a tokenizer that several threads use at once."""

from concurrent import futures
import itertools

import pytest

from beaver_jax.data import encoding
from beaver_jax.data import tokenizer as tokenizer_lib
from tests import vocabularies

END = '<|endoftext|>'
TEXT = f'What is {END} here? '


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp('gpt2')
    return tokenizer_lib.load(vocabularies.byte_level(directory, 'gpt2'))


def written(tokenizer, count):
    """Ids of `count` texts in which people wrote a special token."""
    return encoding.plain(tokenizer, [TEXT] * count)


def meant(tokenizer, count):
    """Ids of `count` texts in which it stands in the template."""
    return encoding.between(tokenizer, [('What is ', 'so', END)] * count)


def test_threads_that_want_other_settings_wait_for_each_other(tokenizer):
    alone = {f: f(tokenizer, 1)[0] for f in (written, meant)}
    end = tokenizer.eos_token_id
    assert (alone[written].count(end), alone[meant].count(end)) == (0, 1)
    work = [*itertools.islice(itertools.cycle([written, written, meant]), 120)]
    with futures.ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda f: f(tokenizer, 300), work)
        for f, ids in zip(work, found, strict=True):
            assert ids == [alone[f]] * 300


def test_settings_that_others_left_change_nothing(tokenizer):
    whole = written(tokenizer, 2)
    tokenizer([TEXT], truncation=True, max_length=3)
    assert written(tokenizer, 2) == whole
    tokenizer([TEXT, 'a'], padding=True)
    assert encoding.plain(tokenizer, ['a', TEXT]) == [
        encoding.ids(tokenizer('a')['input_ids']),
        whole[0],
    ]


def test_each_of_many_texts_stands_after_what_lets_it(tokenizer):
    # 'ee' is a token, so that 'eek' can stand behind 'o' but not behind 'e'.
    said = [
        ('eek', ('e', 'o')),
        ('k', ('e', 'o')),
        ('eek', ('e',)),
        ('book', ()),
        ('', ('o',)),
    ]
    found = encoding.after(tokenizer, said)
    assert found == [encoding.after(tokenizer, [x])[0] for x in said]
    assert [tokenizer.decode(ids) for ids in found] == [text for text, _ in said]
