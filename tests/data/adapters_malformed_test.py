"""Rows that are none of their format, and how their errors say so."""

import pytest

from beaver_jax.data import rows
from beaver_jax.data import sources
from tests import formats

Comparison, Demonstration, Prompt = (
    sources.Comparison,
    sources.Demonstration,
    sources.Prompt,
)


USER, ANSWER = {'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}
HH = {
    'chosen': '\n\nHuman: a\n\nAssistant: b',
    'rejected': '\n\nHuman: a\n\nAssistant: c',
}
MALFORMED = [
    (HH | {'chosen': 'Human: a'}, 'bad_dialogue', r"'chosen' does not begin with"),
    (
        HH | {'chosen': '\n\nAssistant: b\n\nHuman: a'},
        'bad_dialogue',
        r'has the assistant in turn 0 \(from 0\), where the user is due',
    ),
    (
        HH | {'rejected': '\n\nHuman: a\n\nHuman: b\n\nAssistant: c'},
        'bad_dialogue',
        r"'rejected' has the user in turn 1 \(from 0\), where the assistant is due",
    ),
    (HH | {'chosen': '\n\nHuman: a'}, 'bad_dialogue', r"'chosen' does not end with an"),
    (
        HH | {'rejected': '\n\nHuman: x\n\nAssistant: c'},
        'bad_dialogue',
        r"'rejected' differs from 'chosen' before the last answer",
    ),
    (
        HH | {'rejected': HH['chosen']},
        'identical_responses',
        r'chosen and rejected are',
    ),
    (
        HH | {'rejected': '\n\nHuman: a\n\nAssistant: '},
        'empty_text',
        r"'rejected' is ''",
    ),
    (HH | {'chosen': 5}, 'bad_field', r"field 'chosen' is 5; it must be a string"),
    ({'chosen': HH['chosen']}, 'bad_field', r"there is no field 'rejected'"),
    (
        {'context': [USER], 'chosen': 'x', 'rejected': {'text': 'b'}},
        'bad_dialogue',
        r"'chosen' is 'x'; it must be an object with a text",
    ),
    (
        {'context': [], 'chosen': {'text': 'c'}, 'rejected': {'text': 'b'}},
        'bad_dialogue',
        r"'context' is \[\]; it must be a list of messages",
    ),
    (
        {'prompt': 'a', 'chosen': [USER, ANSWER], 'rejected': 'c'},
        'bad_dialogue',
        r"'rejected' is 'c'; it must be a list",
    ),
    (
        {'prompt': 'a', 'chosen': [ANSWER], 'rejected': [ANSWER]},
        'bad_dialogue',
        r"'chosen' has the assistant in turn 0",
    ),
    ({'prompt': 'a', 'chosen': 'b'}, 'bad_field', r"there is no field 'rejected'"),
    (
        {
            'prompt': 'a',
            'response_1': 'b',
            'response_2': 'c',
            'preference_strength': 'x',
        },
        'bad_field',
        r"'preference_strength' is 'x'; it must be 0 or 1",
    ),
]


@pytest.mark.parametrize(('row', 'reason', 'message'), MALFORMED)
def test_a_malformed_pair(row, reason, message, write):
    write(row, formats.PAIR)
    with pytest.raises(rows.BadRowError, match=rf'^x\.jsonl:1: .*{message}'):
        sources.comparisons('x.jsonl', need='better', on_bad_row='error')
    counts = sources.Counts()
    assert len(sources.comparisons('x.jsonl', need='better', counts=counts)) == 1
    assert counts == {'read': 2, 'kept': 1, reason: 1}


MALFORMED_ANSWERS = [
    (
        {'messages': []},
        'bad_dialogue',
        r"'messages' is \[\]; it must be a list of mess",
    ),
    ({'messages': 'x'}, 'bad_dialogue', r"'messages' is 'x'; it must be a list"),
    ({'messages': [3]}, 'bad_dialogue', r"'messages\[0\]' is 3; it must be a message"),
    ({'messages': [ANSWER]}, 'bad_dialogue', r'has the assistant in turn 0'),
    ({'messages': [{'role': 'tool'}]}, 'bad_dialogue', r"is of 'tool'; known: user, h"),
    ({'messages': [{'content': 'a'}]}, 'bad_dialogue', r'is of None; known: user'),
    (
        {'messages': [{'role': 'system', 'content': 's'}]},
        'bad_dialogue',
        r'has no turn of the user',
    ),
    (
        {'messages': [USER, ANSWER | {'content': None}]},
        'bad_field',
        r"'messages\[1\]\.content' is None; it must be a string",
    ),
    (
        {'messages': [{'role': 'user'}, ANSWER]},
        'bad_field',
        r"there is no field 'content' or 'value' or 'text'; the row has 'role'",
    ),
    ({'conversation': 3}, 'bad_dialogue', r"'conversation' is 3; it must be a list"),
    ({'conversation': [3]}, 'bad_dialogue', r'has 3 as turn 0; it must be an object'),
    (
        {'conversation': [{'human': 'a'}]},
        'bad_field',
        r"no field 'assistant'; the row h",
    ),
    ({'input': 'a', 'target': ''}, 'empty_text', r"'target' is ''"),
    ({'plain_text': 3}, 'bad_field', r"'plain_text' is 3; it must be a string"),
    ({'plain_text': 'a'}, 'bad_dialogue', r'from letter 0 on'),
    (
        {'plain_text': '[Human]: a<eoh> [MOSS]: <eoa>'},
        'empty_text',
        r"'plain_text\[1\]' is ''",
    ),
    (
        {'plain_text': '[Human]: a<eoh> [MOSS]: b'},
        'bad_dialogue',
        r'is not of .* from letter 15 on',
    ),
    (
        {'plain_text': '[MOSS]: b<eoa>'},
        'bad_dialogue',
        r'has the assistant in turn 0',
    ),
    ({'chat': 3}, 'bad_dialogue', r"'chat' is 3; it must be an object of turns"),
    ({'chat': {}}, 'bad_dialogue', r"'chat' has no turns"),
    (
        {'chat': {'turn_2': formats.MOSS_TURN}},
        'bad_dialogue',
        r"has no 'turn_1' with 1 turns",
    ),
    (
        {'chat': {'turn_1': {'Human': 'a'}}},
        'bad_field',
        r"no field 'MOSS'; the row has",
    ),
    (
        {'chat': {'turn_1': formats.MOSS_TURN | {'MOSS': '<|MOSS|>: <eom>'}}},
        'empty_text',
        r"'chat\.turn_1\.MOSS' is ''",
    ),
    (
        {'instruction': 'a', 'instances': []},
        'bad_field',
        r"'instances' is \[\]; it must",
    ),
    (
        {'instruction': 'a', 'instances': [3]},
        'bad_field',
        r"'instances\[0\]' is 3; it m",
    ),
    (
        {'instruction': 'a', 'instances': [{'input': 'b'}]},
        'bad_field',
        r"there is no field 'output'; the row has 'input'",
    ),
]


@pytest.mark.parametrize(('row', 'reason', 'message'), MALFORMED_ANSWERS)
def test_a_malformed_answer(row, reason, message, write):
    write(row, {'prompt': 'a', 'response': 'b'})
    with pytest.raises(rows.BadRowError, match=rf'^x\.jsonl:1: .*{message}'):
        sources.demonstrations('x.jsonl', on_bad_row='error')
    counts = sources.Counts()
    assert len(sources.demonstrations('x.jsonl', counts=counts)) == 1
    assert counts == {'read': 2, 'kept': 1, reason: 1}


def test_a_broken_field_matters_only_where_it_is_needed(write):
    write(
        formats.PAIR
        | {'response_1': 7, 'better_response_id': 0, 'safer_response_id': 'x'}
    )
    assert len(sources.prompts('x.jsonl', on_bad_row='error')) == 1
    assert sources.demonstrations('x.jsonl', on_bad_row='error')[0].response == 'b'
    with pytest.raises(rows.BadRowError, match="'response_1' is 7"):
        sources.comparisons('x.jsonl', need='better', on_bad_row='error')
