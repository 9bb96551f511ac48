"""Rows of every format, to the record and to the ids that are learnt."""

import csv
import json
import re

import numpy as np
import pytest
import tokenizers
from tokenizers import models
from tokenizers import pre_tokenizers

from beaver_jax.data import adapters
from beaver_jax.data import examples
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs
from beaver_jax.data import tokenizer as tokenizer_lib

Comparison, Demonstration, Prompt = (
    sources.Comparison,
    sources.Demonstration,
    sources.Prompt,
)

# A token for each piece of the template and for each letter, a = 11 to z = 36.
PIECES = ['<unk>', '<s>', '</s>', '<pad>']
PIECES += ['BEGINNING OF CONVERSATION: ', 'USER: ', ' ASSISTANT:', ' ', '\n', '.', '?']
PIECES += [chr(ord('a') + i) for i in range(26)]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp('letters')
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    built = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    words = '|'.join(map(re.escape, PIECES[4:7]))
    pattern = tokenizers.Regex(rf'{words}|[\s\S]')
    built.pre_tokenizer = pre_tokenizers.Split(pattern, 'isolated')
    built.save(str(directory / 'tokenizer.json'))
    config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        **{
            f'{k}_token': v
            for k, v in zip(('unk', 'bos', 'eos', 'pad'), PIECES, strict=False)
        },
    }
    (directory / 'tokenizer_config.json').write_text(json.dumps(config))
    return tokenizer_lib.load(directory)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*found, name='x.jsonl'):
        (tmp_path / name).write_text(''.join(json.dumps(row) + '\n' for row in found))
        return name

    return write


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
MOSS_TURN = {
    'Human': '<|Human|>: a<eoh>\n',
    'Inner Thoughts': '<|Inner Thoughts|>: None<eot>\n',
    'Commands': '<|Commands|>: None<eoc>\n',
    'Tool Responses': '<|Results|>: None<eor>\n',
    'MOSS': '<|MOSS|>: b<eom>\n',
}
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
            'chat': {'turn_1': MOSS_TURN},
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
                'turn_1': MOSS_TURN,
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


# ---- Two answers --------------------------------------------------------------------

PAIR = {
    'prompt': 'a',
    'response_0': 'b',
    'response_1': 'c',
    'better_response_id': 1,
    'safer_response_id': 0,
    'is_response_0_safe': True,
    'is_response_1_safe': False,
}
V1 = PAIR | {
    'prompt_source': 'x',
    'response_0_source': 'y',
    'response_1_source': 'z',
    'response_0_harm_category': {'Drugs': False, 'Privacy Violation': False},
    'response_1_harm_category': {'Drugs': True, 'Privacy Violation': False},
    'response_0_severity_level': 0,
    'response_1_severity_level': 3,
    'response_0_sha256': '0',
    'response_1_sha256': '1',
}
FIRST = ([1, 4, 5, 11, 6, 12, 2], [1, 4, 5, 11, 6, 13, 2])  # 'a' → 'b' or 'c'
SECOND = FIRST[::-1]
LONGER = (  # 'a' → 'b', 'c' → 'd' or 'e'
    [1, 4, 5, 11, 6, 12, 2, 5, 13, 6, 14, 2],
    [1, 4, 5, 11, 6, 12, 2, 5, 13, 6, 15, 2],
)
KNOWN = {'better': 1, 'safer': 0, 'safe': (True, False)}
PAIRS = [
    ('PKU-SafeRLHF/train', PAIR, 'better', KNOWN, SECOND, (-1, 1)),
    ('PKU-SafeRLHF-30K/test', PAIR, 'safer', KNOWN, FIRST, (1, -1)),
    (
        'PKU-SafeRLHF/test',
        V1,
        'safer',
        KNOWN
        | {
            'harms': {'Drugs': (False, True), 'Privacy Violation': (False, False)},
            'severity': (0, 3),
        },
        FIRST,
        (1, -1),
    ),
    (
        'PKU-SafeRLHF-10K/train',
        {k: v for k, v in PAIR.items() if k != 'better_response_id'},
        'safer',
        KNOWN | {'better': None},
        FIRST,
        (1, -1),
    ),
    (
        'HelpSteer',
        {
            'prompt': 'a',
            'response_0': 'b',
            'response_1': 'c',
            'better_response_id': 0,
            'helpfulness_score_0': 4.0,
            'helpfulness_score_1': 2.5,
        },
        'better',
        {'better': 0},
        FIRST,
        (0, 0),
    ),
    (
        'HelpSteer2',
        {
            'split': 'train',
            'prompt': 'a',
            'response_1': 'b',
            'response_2': 'c',
            'preference_strength': -2,
            'preference_statement': 'x',
        },
        'better',
        {'better': 0},
        FIRST,
        (0, 0),
    ),
    (
        'HelpSteer2',
        {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'preference_strength': 1},
        'better',
        {'better': 1},
        SECOND,
        (0, 0),
    ),
    (
        'HelpSteer2',
        {
            'prompt': 'a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc',
            'response_1': 'd',
            'response_2': 'e',
            'preference_strength': -1,
        },
        'better',
        {'prompt': ('a', 'b', 'c'), 'responses': ('d', 'e'), 'better': 0},
        LONGER,
        (0, 0),
    ),
    (
        'hh-rlhf/train',
        {
            'chosen': '\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d',
            'rejected': '\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e',
        },
        'better',
        {'prompt': ('a', 'b', 'c'), 'responses': ('d', 'e'), 'better': 0},
        LONGER,
        (0, 0),
    ),
    (
        'hh-rlhf-helpful-preference/train',
        {
            'context': [
                {'role': 'human', 'text': 'a'},
                {'role': 'assistant', 'text': 'b'},
                {'role': 'human', 'text': 'c'},
            ],
            'chosen': {'role': 'assistant', 'text': 'd'},
            'rejected': {'role': 'assistant', 'text': 'e'},
        },
        'better',
        {'prompt': ('a', 'b', 'c'), 'responses': ('d', 'e'), 'better': 0},
        LONGER,
        (0, 0),
    ),
    (
        'ultrafeedback/train_prefs',
        {
            'prompt': 'a',
            'prompt_id': 'x',
            'chosen': [
                {'content': 'a', 'role': 'user'},
                {'content': 'b', 'role': 'assistant'},
            ],
            'rejected': [
                {'content': 'a', 'role': 'user'},
                {'content': 'c', 'role': 'assistant'},
            ],
            'messages': [
                {'content': 'a', 'role': 'user'},
                {'content': 'b', 'role': 'assistant'},
            ],
            'score_chosen': 8.5,
            'score_rejected': 7.0,
        },
        'better',
        {'better': 0},
        FIRST,
        (0, 0),
    ),
    (
        'ultrafeedback',
        {
            'prompt': [
                {'content': 'a', 'role': 'user'},
                {'content': 'b', 'role': 'assistant'},
                {'content': 'c', 'role': 'user'},
            ],
            'chosen': [{'content': 'd', 'role': 'assistant'}],
            'rejected': [{'content': 'e', 'role': 'assistant'}],
        },
        'better',
        {'prompt': ('a', 'b', 'c'), 'responses': ('d', 'e'), 'better': 0},
        LONGER,
        (0, 0),
    ),
    (
        'ultrafeedback',
        {'question': 'a', 'chosen': 'b', 'rejected': 'c'},
        'better',
        {'better': 0},
        FIRST,
        (0, 0),
    ),
]


@pytest.mark.parametrize(('name', 'row', 'need', 'fields', 'ids', 'signs'), PAIRS)
def test_a_pair(name, row, need, fields, ids, signs, write, tokenizer):
    write(row)
    expected = {'prompt': ('a',), 'responses': ('b', 'c'), 'where': 'x.jsonl:1'}
    for entry in entries(name):
        spec = specs.parse(entry)
        found = sources.comparisons(
            spec, need=need, on_bad_row='error', contradictions='error'
        )
        assert found == [Comparison(**expected | fields)]
        (example,) = examples.encode_pairs(
            found, tokenizer, preferred=need, max_length=99
        )
        assert tuple(tokens.tolist() for tokens in example.tokens) == ids
        assert example.safety_sign.tolist() == [[sign] for sign in signs]
        (prompt,) = sources.prompts(spec, on_bad_row='error')
        assert prompt.prompt == found[0].prompt
        better = found[0].better
        if better is not None and found[0].safe[better] is not False:
            (learnt,) = sources.demonstrations(spec, on_bad_row='error')
            assert learnt.response == found[0].responses[found[0].better]
            (answer,) = examples.encode_demonstrations(
                [learnt], tokenizer, max_length=99
            )
            assert answer.tokens.tolist() == ids[0 if need == 'better' else 1]


def test_what_is_not_known_of_a_pair(write):
    row = {k: v for k, v in PAIR.items() if k != 'better_response_id'}
    write(row)
    with pytest.raises(
        rows.BadRowError, match=r'x\.jsonl:1: which of its responses is b'
    ):
        sources.demonstrations('x.jsonl', on_bad_row='error')
    counts = sources.Counts()
    with pytest.raises(
        rows.DataError, match=r'\(read 1, no_preference 1\); name files '
    ):
        sources.demonstrations('x.jsonl', counts=counts)
    write({'chosen': 'b', 'rejected': 'c', 'prompt': 'a'})
    with pytest.raises(
        rows.BadRowError, match='which of its responses is safer is not'
    ):
        sources.comparisons('x.jsonl', need='safer', on_bad_row='error')


@pytest.mark.parametrize(
    'row',
    [
        {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'preference_strength': 0},
        {
            'prompt': 'a',
            'chosen': 'b',
            'rejected': 'c',
            'score_chosen': 5.0,
            'score_rejected': 5.0,
        },
    ],
)
def test_ties(row, write):
    write(row, PAIR)
    counts = sources.Counts()
    found = sources.comparisons(
        'x.jsonl', need='better', on_bad_row='error', counts=counts
    )
    assert [pair.where for pair in found] == ['x.jsonl:2']
    assert counts == {'read': 2, 'kept': 1, 'tie': 1}
    counts = sources.Counts()
    # Of the other row the better response is unsafe.
    with pytest.raises(sources.DataError, match='No usable row'):
        sources.demonstrations('x.jsonl', on_bad_row='error', counts=counts)
    assert counts == {'read': 2, 'tie': 1, 'unsafe_response': 1}


def test_categories_that_are_not_known_of_both(write):
    for change in (
        {'response_1_harm_category': None},
        {'response_1_harm_category': {'Drugs': True}},
        {'response_0_harm_category': {'Drugs': 1, 'Privacy Violation': False}},
    ):
        write(V1 | change)
        (pair,) = sources.comparisons('x.jsonl', need='safer', on_bad_row='error')
        assert (pair.harms, pair.severity) == ({}, (0, 3))
    write(V1 | {'response_0_severity_level': None})
    (pair,) = sources.comparisons('x.jsonl', need='better', on_bad_row='error')
    assert pair.severity is None
    assert len({pair, pair}) == 1  # records may be put into sets


# ---- Malformed ----------------------------------------------------------------------

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
    write(row, PAIR)
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
    ({'chat': {'turn_2': MOSS_TURN}}, 'bad_dialogue', r"has no 'turn_1' with 1 turns"),
    (
        {'chat': {'turn_1': {'Human': 'a'}}},
        'bad_field',
        r"no field 'MOSS'; the row has",
    ),
    (
        {'chat': {'turn_1': MOSS_TURN | {'MOSS': '<|MOSS|>: <eom>'}}},
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
    write(PAIR | {'response_1': 7, 'better_response_id': 0, 'safer_response_id': 'x'})
    assert len(sources.prompts('x.jsonl', on_bad_row='error')) == 1
    assert sources.demonstrations('x.jsonl', on_bad_row='error')[0].response == 'b'
    with pytest.raises(rows.BadRowError, match="'response_1' is 7"):
        sources.comparisons('x.jsonl', need='better', on_bad_row='error')


# ---- Columns of any name ------------------------------------------------------------

ANY = 'prompt=q,response_0=one,response_1=two,better=best,safer=mild,safe_0=ok 1'
ANY += (
    ',safe_1=ok 2,severity_0=s 1,severity_1=s 2,harm.privacy_0=p 1,harm.privacy_1=p 2'
)
ANY_ROW = {
    **{'q': 'a', 'one': 'b', 'two': 'c', 'best': 1, 'mild': 0, 'ok 1': True},
    **{'ok 2': False, 's 1': 0, 's 2': 2, 'p 1': False, 'p 2': True, 'prompt': 'x'},
}
ANY_PAIR = Comparison(
    ('a',),
    ('b', 'c'),
    **KNOWN,
    harms={'privacy': (False, True)},
    severity=(0, 2),
    where='x.jsonl:1',
)


def test_columns_of_any_name(write, tokenizer):
    write(ANY_ROW)
    spec = specs.parse('x.jsonl', columns=specs.parse_columns(ANY))
    for need, ids in (('better', SECOND), ('safer', FIRST)):
        found = sources.comparisons(spec, need=need, on_bad_row='error')
        assert found == [ANY_PAIR]
        (example,) = examples.encode_pairs(
            found, tokenizer, preferred=need, max_length=99
        )
        assert tuple(tokens.tolist() for tokens in example.tokens) == ids
    for changes, message in (
        ({'best': 3}, "field 'best' is 3; it must be 0 or 1"),
        ({'one': ''}, "field 'one' is ''; it must not be empty"),
        ({'two': 'b'}, "one and two are both 'b'"),
    ):
        write(ANY_ROW | changes)
        with pytest.raises(rows.BadRowError, match=rf'^x\.jsonl:1: {message}'):
            sources.comparisons(spec, need='better', on_bad_row='error')


def test_columns_of_csv(tmp_path, write):
    write()  # to be in the folder
    with (tmp_path / 'x.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(ANY_ROW))
        writer.writeheader()
        writer.writerow(ANY_ROW)
    spec = specs.parse('x.csv', columns=specs.parse_columns(ANY))
    (pair,) = sources.comparisons(spec, need='safer', on_bad_row='error')
    assert pair == Comparison(**{**vars(ANY_PAIR), 'where': 'x.csv:2'})
    assert {type(text) for text in (*pair.prompt, *pair.responses)} == {str}


def test_answers_and_prompts_in_columns_of_any_name(write):
    write({'q': 'a', 'r': 'b', 'ok': True}, {'q': 'c', 'r': 'd', 'ok': False})
    text = 'prompt=q,response=r,safe=ok'
    spec = specs.parse('x.jsonl', columns=specs.parse_columns(text))
    assert sources.demonstrations(spec, on_bad_row='error') == [
        Demonstration(('a',), 'b', 'x.jsonl:1', True)
    ]
    spec = specs.parse('x.jsonl', columns=specs.parse_columns('prompt=q'))
    assert [p.prompt for p in sources.prompts(spec)] == [('a',), ('c',)]
    spec = specs.parse('x.jsonl', columns=specs.parse_columns('prompt=question'))
    with pytest.raises(
        rows.BadRowError, match="no field 'question'; the row has 'q', '"
    ):
        sources.prompts(spec, on_bad_row='error')


# ---- Real rows ----------------------------------------------------------------------


def _lines(path):
    return [json.loads(line) for line in path.read_text().split('\n') if line]


def _same(values, expected):
    # Without the texts in the report, which are not for reading.
    found = np.array(
        [value == other for value, other in zip(values, expected, strict=True)]
    )
    assert found.all(), f'rows {np.flatnonzero(~found)[:5]} differ'


def test_real_pku_rows_with_all_columns(shared_data):
    path = shared_data / 'pku_saferlhf'
    lines = _lines(path / 'train.jsonl')
    expected = [
        (
            (row['prompt'],),
            (row['response_0'], row['response_1']),
            (row['better_response_id'], row['safer_response_id']),
            (row['is_response_0_safe'], row['is_response_1_safe']),
            {
                name: (harm, row['response_1_harm_category'][name])
                for name, harm in row['response_0_harm_category'].items()
            },
            (row['response_0_severity_level'], row['response_1_severity_level']),
        )
        for row in lines
    ]
    assert {len(row[4]) for row in expected} == {19}
    for entry in (
        f'{path}/train.jsonl',
        f'{path}/train.arrow',
        f'PKU-SafeRLHF/train:1:{path}/train.arrow',
    ):
        found = sources.comparisons(
            specs.parse(entry), need='safer', on_bad_row='error'
        )
        values = [
            (p.prompt, p.responses, (p.better, p.safer), p.safe, p.harms, p.severity)
            for p in found
        ]
        _same(values, expected)
    few = sources.comparisons(path / 'train.7field.jsonl', need='safer')
    _same([p.responses for p in few], [row[1] for row in expected])
    assert {(len(p.harms), p.severity) for p in few} == {(0, None)}


def test_real_hh_rows(shared_data):
    path = shared_data / 'hh_rlhf_harmless' / 'sample500.jsonl'
    counts = sources.Counts()
    found = sources.comparisons(path, need='better', counts=counts)
    # One dialogue has an empty answer.
    assert counts == {'read': 500, 'kept': 499, 'empty_text': 1}
    lines = {f'{path}:{i}': row for i, row in enumerate(_lines(path), start=1)}
    texts = [lines[pair.where] for pair in found]
    for i, name in enumerate(('chosen', 'rejected')):
        # Put together again, but for spaces around the turns.
        built = [
            ''.join(
                f'{("Human", "Assistant")[k % 2]}:{turn}'
                for k, turn in enumerate((*pair.prompt, pair.responses[i]))
            )
            for pair in found
        ]
        _same(
            [''.join(text.split()) for text in built],
            [''.join(row[name].split()) for row in texts],
        )
    assert {pair.better for pair in found} == {0}


def test_real_firefly_and_seed_rows(shared_data):
    path = shared_data / 'alpaca_sft' / 'firefly_dummy_zh.jsonl'
    found = sources.demonstrations(path, on_bad_row='error')
    lines = [row['conversation'] for row in _lines(path)]
    said = [
        [t for pair in row for t in (pair['human'], pair['assistant'])] for row in lines
    ]
    _same([[*record.prompt, record.response] for record in found], said)
    path = shared_data / 'alpaca_sft' / 'seed_tasks.jsonl'
    counts = sources.Counts()
    found = sources.demonstrations(path, counts=counts)
    expected = []
    for row in _lines(path):
        first = row['instances'][0]
        question = row['instruction']
        if first['input']:
            question = question + ' ' + first['input']
        expected.append(((question,), first['output']))
    _same([(record.prompt, record.response) for record in found], expected)
    assert counts['kept'] == 175


def test_real_helpsteer_alpaca_and_mixed_rows(shared_data):
    path = shared_data / 'helpsteer_pairs' / 'helpfulness_preference_test.jsonl'
    pairs = sources.comparisons(path, need='better', on_bad_row='error')
    _same(
        [(p.prompt[0], *p.responses, p.better, p.safer) for p in pairs],
        [
            (
                r['prompt'],
                r['response_0'],
                r['response_1'],
                r['better_response_id'],
                None,
            )
            for r in _lines(path)
        ],
    )
    path = shared_data / 'pku_saferlhf_mixed' / 'mixed5k.sample2000.jsonl'
    pairs = sources.comparisons(path, need='safer', on_bad_row='error')
    _same(
        [(p.prompt[0], *p.responses, p.better, p.safer) for p in pairs],
        [
            (
                r['prompt'],
                r['response_0'],
                r['response_1'],
                None,
                r['safer_response_id'],
            )
            for r in _lines(path)
        ],
    )
    path = shared_data / 'alpaca_sft' / 'alpaca_en_demo.json'
    answers = sources.demonstrations(
        specs.parse(f'alpaca:1:{path}'), on_bad_row='error'
    )
    _same(
        [(record.prompt[0], record.response) for record in answers],
        [
            (
                f'{r["instruction"]} {r["input"]}' if r['input'] else r['instruction'],
                r['output'],
            )
            for r in json.loads(path.read_text())
        ],
    )


def test_real_csv_prompts(shared_data):
    path = shared_data / 'safety_prompts' / 'simple_safety_tests.csv'
    columns = specs.parse_columns('prompt=prompts_final')
    found = sources.prompts(specs.parse(str(path), columns=columns), on_bad_row='error')
    with path.open(newline='', encoding='utf-8-sig') as file:
        expected = [row['prompts_final'] for row in csv.DictReader(file)]
    _same([prompt.prompt[0] for prompt in found], expected)
    assert len(found) == 100


def test_every_name_of_the_table_is_tested():
    tested = {name.partition('/')[0] for name, *_ in (*ANSWERS, *QUESTIONS, *PAIRS)}
    functions = {adapters.ADAPTERS[name].adapter for name in tested}
    assert functions == {source.adapter for source in adapters.ADAPTERS.values()}
