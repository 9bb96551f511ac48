import random

import pytest

from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.serve import texts
from tests import vocabularies
from tests.data import chat_template_test


@pytest.fixture(scope='module')
def characters(tmp_path_factory):
    return vocabularies.characters(tmp_path_factory.mktemp('characters'))


@pytest.fixture(scope='module', params=['llama', 'gpt2', 'qwen2', 'inst', 'sentences'])
def tokenizer(request, tmp_path_factory):
    """Byte-level ones, with the original's template and their own; sentencepiece."""
    directory = tmp_path_factory.mktemp('tokenizer')
    if request.param == 'sentences':
        return vocabularies.characters(directory)
    kind, chat = {
        'qwen2': ('qwen2', chat_template_test.CHATML),
        'inst': ('llama', chat_template_test.INST),
    }.get(request.param, (request.param, None))
    vocabularies.byte_level(directory, kind, chat_template=chat)
    return tokenizer_lib.load(directory)


def shown(text, ids, sizes):
    """What is shown of ids that come in pieces of some sizes."""
    pieces, ids = [], list(ids)
    while ids and not text.stopped:
        size = sizes()
        pieces.append(text.push(ids[:size]))
        ids = ids[size:]
    return [*pieces, text.finish()]


@pytest.mark.parametrize(
    'answer', ['See the book.', ' So: é ü 😀\n Ask  me. ', '', 'ß', ' ']
)
def test_pieces_are_those_of_the_whole(tokenizer, answer):
    ids = tokenizer_lib.encode_response(tokenizer, answer)
    whole = tokenizer_lib.decode(tokenizer, ids)
    for size in (1, 3):
        text = texts.Text(tokenizer, texts.chat_frame(tokenizer))
        assert ''.join(shown(text, ids, lambda size=size: size)) == whole


def test_any_ids_in_any_pieces_are_those_of_the_whole(tokenizer):
    drawn = random.Random(0)
    for _ in range(30):
        ids = [drawn.randrange(len(tokenizer)) for _ in range(25)]
        text = texts.Text(tokenizer, texts.chat_frame(tokenizer))
        pieces = shown(text, ids, lambda: drawn.randint(1, 4))
        assert ''.join(pieces) == tokenizer_lib.decode(tokenizer, ids)


def test_a_character_comes_once_it_is_whole(tmp_path):
    vocabularies.byte_level(tmp_path, 'llama')
    tokenizer = tokenizer_lib.load(tmp_path)
    ids = tokenizer_lib.encode_response(tokenizer, '😀!')[:-1]
    assert len(ids) == 5  # four bytes, and !
    text = texts.Text(tokenizer, texts.chat_frame(tokenizer))
    assert [text.push([token]) for token in ids] == ['', '', '', '😀', '!']


def spelt(tokenizer, answer):
    ids = tokenizer_lib.encode_response(tokenizer, answer)[:-1]
    assert len(ids) == len(answer)
    return ids


@pytest.mark.parametrize(
    ('answer', 'stop', 'expected'),
    [
        ('one two three', [' two'], 'one'),
        ('one two three', ['tw', 'one two t'], 'one '),  # that one is complete first
        ('one two three', ['wo', 'two', ' t three'], 'one '),  # at once: the longest
        ('one tw', ['two'], 'one tw'),  # never complete
        ('ababac', ['abac'], 'ab'),  # begins inside of a failed beginning
        ('one', ['one'], ''),
        ('one', [], 'one'),
    ],
)
def test_stop_strings_by_hand(characters, answer, stop, expected):
    for size in (1, 2, 99):
        text = texts.Text(characters, texts.chat_frame(characters), stop)
        pieces = shown(text, spelt(characters, answer), lambda size=size: size)
        assert ''.join(pieces) == expected
        assert text.stopped == (expected != answer)


@pytest.mark.parametrize(
    ('answer', 'stop', 'expected', 'stopped'),
    [
        ('  one', ' ', 'one', False),
        ('  one', '  ', 'one', False),
        ('  one', 'n', 'o', True),
        ('  ', ' ', '', False),
        ('   one', ' ', '', True),
        (' one', ' ', '', True),  # only a part of the lead, and so a text
        (' ', ' ', '', True),
    ],
)
def test_no_stop_string_is_found_in_the_lead(
    characters, answer, stop, expected, stopped
):
    before = texts.chat_frame(characters).before
    for size in (1, 2, 99):
        frame = texts.Frame(before, lead='  ')
        text = texts.Text(characters, frame, [stop])
        pieces = shown(text, spelt(characters, answer), lambda size=size: size)
        assert (''.join(pieces), text.stopped) == (expected, stopped)


def test_only_what_may_begin_a_stop_string_is_held_back(characters):
    text = texts.Text(characters, texts.chat_frame(characters), ['two', 'ten'])
    pieces = [text.push([token]) for token in spelt(characters, 'at tea')]
    assert pieces == ['a', '', 't ', '', '', 'tea']
    assert text.shown == text.length == 6


def test_an_answer_may_be_nothing_but_its_frame(tmp_path):
    vocabularies.byte_level(tmp_path, 'llama', chat_template=chat_template_test.INST)
    tokenizer = tokenizer_lib.load(tmp_path)
    frame = texts.chat_frame(tokenizer)
    assert (frame.lead, frame.trail) == (' ', ' ')
    (space,) = tokenizer(' ', add_special_tokens=False)['input_ids']
    text = texts.Text(tokenizer, frame)
    assert [text.push([space]), text.finish()] == ['', '']
