"""Pairs of every format, to the record and to the ids that are learnt."""

import pytest

from beaver_jax.data import adapters
from beaver_jax.data import examples
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs
from tests import formats
from tests.data import adapters_test

Comparison, Demonstration, Prompt = (
    sources.Comparison,
    sources.Demonstration,
    sources.Prompt,
)


def entries(name):
    """The entries with which a row is read: by columns, and by name."""
    return ['x.jsonl', f'{name}:1:x.jsonl']


V1 = formats.PAIR | {
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
LONGER = (  # 'a' → 'b', 'c' → 'd' or 'e'
    [1, 4, 5, 11, 6, 12, 2, 5, 13, 6, 14, 2],
    [1, 4, 5, 11, 6, 12, 2, 5, 13, 6, 15, 2],
)
PAIRS = [
    (
        'PKU-SafeRLHF/train',
        formats.PAIR,
        'better',
        formats.KNOWN,
        formats.SECOND,
        (-1, 1),
    ),
    (
        'PKU-SafeRLHF-30K/test',
        formats.PAIR,
        'safer',
        formats.KNOWN,
        formats.FIRST,
        (1, -1),
    ),
    (
        'PKU-SafeRLHF/test',
        V1,
        'safer',
        formats.KNOWN
        | {
            'harms': {'Drugs': (False, True), 'Privacy Violation': (False, False)},
            'severity': (0, 3),
        },
        formats.FIRST,
        (1, -1),
    ),
    (
        'PKU-SafeRLHF-10K/train',
        {k: v for k, v in formats.PAIR.items() if k != 'better_response_id'},
        'safer',
        formats.KNOWN | {'better': None},
        formats.FIRST,
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
        formats.FIRST,
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
        formats.FIRST,
        (0, 0),
    ),
    (
        'HelpSteer2',
        {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'preference_strength': 1},
        'better',
        {'better': 1},
        formats.SECOND,
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
        formats.FIRST,
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
        formats.FIRST,
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
    row = {k: v for k, v in formats.PAIR.items() if k != 'better_response_id'}
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
    write(row, formats.PAIR)
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


def test_every_name_of_the_table_is_tested():
    tested = {
        name.partition('/')[0]
        for name, *_ in (*adapters_test.ANSWERS, *adapters_test.QUESTIONS, *PAIRS)
    }
    functions = {adapters.ADAPTERS[name].adapter for name in tested}
    assert functions == {source.adapter for source in adapters.ADAPTERS.values()}
