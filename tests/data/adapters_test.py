"""Answers and prompts of every format, to the record and to the ids that are learnt."""

import pytest

from beaver_jax.data import examples
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs
from tests import formats

Comparison, Demonstration, Prompt = (
    sources.Comparison,
    sources.Demonstration,
    sources.Prompt,
)


def entries(name):
    """The entries with which a row is read: by columns, and by name."""
    return ['x.jsonl', f'{name}:1:x.jsonl']


# ---- One answer ---------------------------------------------------------------------

# What is learnt, and the ids: BOS, template, question, template, answer, EOS.
ONE_TURN = ([1, 4, 5, 11, 7, 12, 6, 13, 2], [0, 0, 0, 0, 0, 0, 0, 1, 1])  # 'a b' → 'c'
SHORT = ([1, 4, 5, 11, 6, 12, 2], [0, 0, 0, 0, 0, 1, 1])  # 'a' → 'b'
TWO_TURNS = (  # 'a' → 'b', 'c' → 'd'
    [1, 4, 5, 11, 6, 12, 2, 5, 13, 6, 14, 2],
    [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1],
)
SYSTEM = (  # 's', a blank line, 'a' → 'b'
    [1, 4, 5, 29, 8, 8, 11, 6, 12, 2],
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
)
ANSWERS = [
    (
        'alpaca',
        {'instruction': 'a', 'input': 'b', 'output': 'c', 'text': 'Below is …'},
        Demonstration(('a b',), 'c'),
        ONE_TURN,
    ),
    (
        'stanford-alpaca',
        {'instruction': 'a', 'input': '', 'output': 'b'},
        Demonstration(('a',), 'b'),
        SHORT,
    ),
    (
        'self-instruct',
        {
            'id': 'seed_task_0',
            'name': 'x',
            'instruction': 'a',
            'instances': [{'input': 'b', 'output': 'c'}, {'input': 'x', 'output': 'y'}],
            'is_classification': False,
        },
        Demonstration(('a b',), 'c'),
        ONE_TURN,
    ),
    (
        'self-instruct',
        {'instruction': 'a', 'instances': [{'input': '', 'output': 'b'}]},
        Demonstration(('a',), 'b'),
        SHORT,
    ),
    (
        'firefly',
        {'kind': 'NLI', 'input': 'a b', 'target': 'c'},
        Demonstration(('a b',), 'c'),
        ONE_TURN,
    ),
    (
        'firefly',
        {
            'conversation_id': 1,
            'category': 'Brainstorming',
            'conversation': [
                {'human': 'a', 'assistant': 'b'},
                {'human': 'c', 'assistant': 'd'},
            ],
        },
        Demonstration(('a', 'b', 'c'), 'd'),
        TWO_TURNS,
    ),
    (
        'moss-002-sft',
        {
            'id': 0,
            'prefix': 'MOSS is an AI assistant.',
            'num_turns': 2,
            'plain_text': (
                '[Human]: a<eoh> [MOSS]: b<eoa> [Human]: c <eoh> [MOSS]: d<eoa>'
            ),
        },
        Demonstration(('a', 'b', 'c'), 'd'),
        TWO_TURNS,
    ),
    (
        'moss-003-sft',
        {
            'conversation_id': 1,
            'meta_instruction': 'You are MOSS.',
            'num_turns': 1,
            'chat': {'turn_1': formats.MOSS_TURN},
            'category': 'Code',
        },
        Demonstration(('a',), 'b'),
        SHORT,
    ),
    (
        'moss-003-sft',
        {
            # A table has a column for every turn; and their order is that of numbers.
            'chat': {
                'turn_2': {'Human': 'c', 'MOSS': '<|MOSS|>: d\n'},
                'turn_1': formats.MOSS_TURN,
                'turn_3': None,
            }
        },
        Demonstration(('a', 'b', 'c'), 'd'),
        TWO_TURNS,
    ),
    (
        'messages',
        {
            'messages': [
                {'role': 'user', 'content': 'a'},
                {'role': 'assistant', 'content': 'b'},
                {'role': 'user', 'content': 'c'},
                {'role': 'assistant', 'content': 'd'},
            ]
        },
        Demonstration(('a', 'b', 'c'), 'd'),
        TWO_TURNS,
    ),
    (
        'messages',
        {
            'conversations': [
                {'from': 'system', 'value': 's'},
                {'from': 'human', 'value': 'a'},
                {'from': 'gpt', 'value': 'b'},
            ]
        },
        Demonstration(('s\n\na',), 'b'),
        SYSTEM,
    ),
    (
        'messages',
        {
            'messages': [
                {'role': 'system', 'content': ''},
                {'role': 'prompter', 'content': 'a'},
                {'role': 'Assistant', 'content': 'b'},
            ]
        },
        Demonstration(('a',), 'b'),
        SHORT,
    ),
    (
        'BeaverTails',
        {
            'prompt': 'a',
            'response': 'b',
            'category': {'animal_abuse': False, 'violence': False},
            'is_safe': True,
        },
        Demonstration(('a',), 'b', safe=True),
        SHORT,
    ),
    (
        'demonstrations',
        {'prompt': ['a', 'b', 'c'], 'response': 'd'},
        Demonstration(('a', 'b', 'c'), 'd'),
        TWO_TURNS,
    ),
]


@pytest.mark.parametrize(('name', 'row', 'record', 'ids'), ANSWERS)
def test_an_answer_to_learn(name, row, record, ids, write, tokenizer):
    write(row)
    for entry in entries(name):
        (found,) = sources.demonstrations(specs.parse(entry), on_bad_row='error')
        assert found == Demonstration(
            record.prompt, record.response, 'x.jsonl:1', record.safe
        )
        (example,) = examples.encode_demonstrations([found], tokenizer, max_length=99)
        assert example.tokens.tolist() == ids[0]
        assert example.loss_mask.astype(int).tolist() == ids[1]
        # All serve as prompts: what stands before the last answer.
        (prompt,) = sources.prompts(specs.parse(entry), on_bad_row='error')
        category = row.get('category', '')
        if isinstance(category, dict):  # BeaverTails' harms name no category
            category = ''
        assert prompt == Prompt(record.prompt, 'x.jsonl:1', category)
        (encoded,) = examples.encode_prompts([prompt], tokenizer, max_prompt_length=99)
        answer = len(record.response) + 1
        assert encoded.tokens.tolist() == ids[0][:-answer]


QUESTIONS = [
    ('prompts', {'prompt': 'a', 'category': 'x'}, ('a',), [1, 4, 5, 11, 6]),
    (
        'prompts',
        {'prompt': ['a', 'b', 'c']},
        ('a', 'b', 'c'),
        [1, 4, 5, 11, 6, 12, 2, 5, 13, 6],
    ),
    ('prompts', {'instruction': 'a', 'input': 'b'}, ('a b',), [1, 4, 5, 11, 7, 12, 6]),
    ('prompts', {'question': 'a?'}, ('a?',), [1, 4, 5, 11, 10, 6]),
    ('prompts', {'text': 'a.'}, ('a.',), [1, 4, 5, 11, 9, 6]),
    (
        'prompts',
        {
            'prompt': [
                {'role': 'system', 'content': 's'},
                {'role': 'user', 'content': 'a'},
            ]
        },
        ('s\n\na',),
        [1, 4, 5, 29, 8, 8, 11, 6],
    ),
    (
        'messages',
        {
            'messages': [
                {'role': 'user', 'content': 'a'},
                {'role': 'assistant', 'content': 'b'},
                {'role': 'user', 'content': 'c'},
            ]
        },
        ('a', 'b', 'c'),
        [1, 4, 5, 11, 6, 12, 2, 5, 13, 6],
    ),
]


@pytest.mark.parametrize(('name', 'row', 'turns', 'ids'), QUESTIONS)
def test_a_prompt_to_answer(name, row, turns, ids, write, tokenizer):
    write(row)
    for entry in entries(name):
        found = sources.prompts(specs.parse(entry), on_bad_row='error')
        assert found == [Prompt(turns, 'x.jsonl:1', row.get('category', ''))]
        (example,) = examples.encode_prompts(found, tokenizer, max_prompt_length=99)
        assert example.tokens.tolist() == ids
        with pytest.raises(rows.BadRowError) as info:
            sources.demonstrations(specs.parse(entry), on_bad_row='error')
        assert "there is no field 'response' or 'output'" in str(info.value)


def test_unsafe_answers_are_not_learnt(write):
    row = {'prompt': 'a', 'response': 'b', 'category': {}}
    write(row | {'is_safe': False}, row | {'is_safe': True, 'prompt': 'c'})
    for entry in ('x.jsonl', 'BeaverTails/30k_train:1:x.jsonl'):
        counts = sources.Counts()
        spec = specs.parse(entry)
        # It is not the row's fault: no error under any policy.
        found = sources.demonstrations(spec, on_bad_row='error', counts=counts)
        assert found == [Demonstration(('c',), 'b', 'x.jsonl:2', True)]
        assert counts == {'read': 2, 'kept': 1, 'unsafe_response': 1}
        assert len(sources.prompts(spec, on_bad_row='error')) == 2
    write(row)
    with pytest.raises(rows.BadRowError, match="'is_safe' is missing; it must be true"):
        sources.demonstrations(specs.parse('BeaverTails:1:x.jsonl'), on_bad_row='error')
