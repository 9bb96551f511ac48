"""Demonstrations from good rows, and what is said of bad ones."""

import pytest

from beaver_jax.data import sources
from tests import micro


def test_demonstrations_of_several_files(write):
    first = write({'prompt': 'Why?', 'response': 'So.', 'id': 7})
    second = write('[{"prompt": "Who?", "response": " I. "}]', name='more.json')
    assert sources.demonstrations([first, str(second)]) == [
        sources.Demonstration(('Why?',), 'So.', f'{first}:1'),
        sources.Demonstration(('Who?',), ' I. ', f'{second}, row 0 (from 0)'),
    ]


def test_alpaca_rows(write):
    path = write(
        {'instruction': 'Add.', 'input': '1 and 2', 'output': '3'},
        {'instruction': 'Sing.', 'input': '', 'output': 'La.'},
        {'instruction': 'Hum.', 'output': 'Hm.'},
    )
    found = sources.demonstrations(path)
    assert [record.prompt for record in found] == [
        ('Add. 1 and 2',),
        ('Sing.',),
        ('Hum.',),
    ]
    assert [record.response for record in found] == ['3', 'La.', 'Hm.']


def test_dialogues(write):
    path = write({'prompt': ['Hi', 'Hello.', 'Why?'], 'response': 'So.'})
    assert sources.demonstrations(path)[0].prompt == ('Hi', 'Hello.', 'Why?')


@pytest.mark.parametrize(
    ('row', 'reason', 'message'),
    [
        (
            {'prompt': 'a'},
            'bad_field',
            r"rows.jsonl:1: there is no field 'response' or 'output'; the row has 'pro",
        ),
        ({}, 'bad_field', r'the row has none'),
        ({'response': 'b'}, 'bad_field', r"no field 'prompt' or 'instruction'"),
        (
            {'prompt': 'a', 'response': 5},
            'bad_field',
            r"rows.jsonl:1: field 'response' is 5; it must be a string",
        ),
        ({'prompt': None, 'response': 'b'}, 'bad_field', r"'prompt' is None; it must"),
        (
            {'prompt': ' \n', 'response': 'b'},
            'empty_text',
            r"'prompt' is ' \\n'; .*emp",
        ),
        ({'prompt': 'a', 'response': ''}, 'empty_text', r"'response' is ''; it must"),
        ({'prompt': ['a', 'b'], 'response': 'c'}, 'bad_field', r"'prompt' has 2 turns"),
        ({'prompt': [], 'response': 'c'}, 'bad_field', r"'prompt' has 0 turns"),
        (
            {'prompt': ['a', '', 'c'], 'response': 'd'},
            'empty_text',
            r"'prompt\[1\]' is ''; it must not be empty",
        ),
        (
            {'instruction': 'a', 'input': 4, 'output': 'b'},
            'bad_field',
            r"'input' is 4; it must be a string",
        ),
        (
            {'prompt': 'a', 'response': '\ud800'},
            'bad_field',
            r"'response' is '\\ud800', with half of a surrogate",
        ),
    ],
)
def test_a_bad_demonstration(write, row, reason, message):
    path = write(row, {'prompt': 'a', 'response': 'b'})
    with pytest.raises(sources.DataError, match=message) as info:
        sources.demonstrations(path, on_bad_row='error')
    assert "set on_bad_row='drop'" in str(info.value)
    counts = sources.Counts()
    assert len(sources.demonstrations(path, counts=counts)) == 1
    assert counts == {'read': 2, 'kept': 1, reason: 1}


def test_long_values_are_shown_short(write):
    path = write({'prompt': ['x' * 10_000], 'response': ['y' * 10_000]})
    with pytest.raises(sources.DataError) as info:
        sources.demonstrations(path, on_bad_row='error')
    assert len(str(info.value)) < 300


def test_of_a_pair_no_unsafe_response_is_learnt(tmp_path):
    row = {
        'prompt': 'a',
        'response_0': 'b',
        'response_1': 'c',
        'better_response_id': 0,
        'safer_response_id': 1,
        'is_response_0_safe': False,
        'is_response_1_safe': True,
    }
    safe = row | {'better_response_id': 1}
    file = micro.write_rows(tmp_path / 'x.jsonl', [row, safe])
    counts = sources.Counts()
    found = sources.demonstrations(file, on_bad_row='error', counts=counts)
    assert [record.response for record in found] == ['c']
    assert counts['unsafe_response'] == 1
