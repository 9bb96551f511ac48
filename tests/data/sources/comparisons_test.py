"""Pairs and their labels, the contradictions among them, and their prompts."""

import pytest

from beaver_jax.data import sources

PAIR = {
    'prompt': 'Which way?',
    'response_0': 'Left.',
    'response_1': 'Right.',
    'better_response_id': 1,
    'safer_response_id': 0,
    'is_response_0_safe': True,
    'is_response_1_safe': False,
}


def _without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


# ---- Labels -------------------------------------------------------------------------


def test_comparison_with_all_labels(write):
    path = write(PAIR | {'prompt_source': 'x', 'response_0_severity_level': 2})
    for need in ('better', 'safer'):
        assert sources.comparisons(path, need=need) == [
            sources.Comparison(
                prompt=('Which way?',),
                responses=('Left.', 'Right.'),
                better=1,
                safer=0,
                safe=(True, False),
                where=f'{path}:1',
            )
        ]


def test_only_the_needed_labels_are_required(write):
    path = write(_without(PAIR, 'better_response_id') | {'safer_response_id': 1.0})
    with pytest.raises(sources.DataError, match="'better_response_id' is missing"):
        sources.comparisons(path, need='better', on_bad_row='error')
    path = write(PAIR | {'safer_response_id': None, 'is_response_1_safe': 'no'})
    (pair,) = sources.comparisons(path, need='better', on_bad_row='error')
    assert (pair.better, pair.safer, pair.safe) == (1, None, (True, None))


@pytest.mark.parametrize('value', [2, -1, '0', True, 1.0, None, [0]])
@pytest.mark.parametrize('need', ['better', 'safer'])
def test_a_preference_is_0_or_1(write, need, value):
    path = write(PAIR | {f'{need}_response_id': value})
    message = rf"rows\.jsonl:1: field '{need}_response_id' is .*; it must be 0 or 1"
    with pytest.raises(sources.DataError, match=message):
        sources.comparisons(path, need=need, on_bad_row='error')


@pytest.mark.parametrize('value', [0, 1, 'true', None])
def test_a_safety_label_is_a_bool(write, value):
    path = write(PAIR | {'is_response_1_safe': value})
    message = r"'is_response_1_safe' is .*; it must be true or false"
    with pytest.raises(sources.DataError, match=message):
        sources.comparisons(path, need='safer', on_bad_row='error')


def test_bad_pairs_are_counted(write):
    path = write(
        PAIR,
        PAIR | {'response_1': 'Left.'},
        PAIR | {'response_0': ' '},
        _without(PAIR, 'response_1'),
        PAIR | {'prompt': ''},
    )
    counts = sources.Counts()
    assert len(sources.comparisons(path, need='better', counts=counts)) == 1
    assert counts == {
        'read': 5,
        'kept': 1,
        'identical_responses': 1,
        'empty_text': 2,
        'bad_field': 1,
    }
    with pytest.raises(sources.DataError, match=r":2: .* are both 'Left\.'"):
        sources.comparisons(path, need='better', on_bad_row='error')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'need': 'best'}, "need='best' is unknown; use better or safer"),
        ({'on_bad_row': 'skip'}, "on_bad_row='skip' is unknown; use drop or error"),
        ({'contradictions': 'keep'}, "contradictions='keep' is unknown; use drop or k"),
    ],
)
def test_unknown_policies(write, option, message):
    with pytest.raises(ValueError, match=message):
        sources.comparisons(write(PAIR), **{'need': 'safer', **option})


def test_prompts_keep_the_first_of_duplicates(write):
    path = write(
        {'prompt': 'One?'}, PAIR, {'prompt': ['One?']}, {'instruction': 'One?'}
    )
    counts = sources.Counts()
    assert sources.prompts(path, counts=counts) == [
        sources.Prompt(('One?',), f'{path}:1'),
        sources.Prompt(('Which way?',), f'{path}:2'),
    ]
    assert counts == {'read': 4, 'kept': 2, 'duplicate_prompt': 2}


# ---- Contradictions -----------------------------------------------------------------


# The safer response is the second, but it is the first that is labelled safe.
CONTRADICTION = PAIR | {'safer_response_id': 1}


def test_contradictions_dropped(write):
    counts = sources.Counts()
    found = sources.comparisons(write(PAIR, CONTRADICTION), need='safer', counts=counts)
    assert [pair.safer for pair in found] == [0]
    assert counts == {'read': 2, 'kept': 1, 'contradictory_safety': 1}


def test_contradictions_keep_their_ranking(write):
    counts = sources.Counts()
    (pair,) = sources.comparisons(
        write(CONTRADICTION), need='safer', contradictions='keep_ranking', counts=counts
    )
    assert (pair.safer, pair.safe) == (1, (None, None))
    assert counts == {'read': 1, 'kept': 1, 'contradictory_safety': 1}


def test_contradictions_as_errors(write):
    path = write(PAIR, CONTRADICTION)
    message = r':2: safer_response_id is 1, but .* are True and False\. Correct'
    with pytest.raises(sources.DataError, match=message):
        sources.comparisons(path, need='safer', contradictions='error')


@pytest.mark.parametrize('safe', [(True, True), (False, False), (True, False)])
def test_other_labels_are_no_contradiction(write, safe):
    row = PAIR | {'is_response_0_safe': safe[0], 'is_response_1_safe': safe[1]}
    (pair,) = sources.comparisons(write(row), need='safer', contradictions='error')
    assert pair.safe == safe


def test_contradictions_do_not_matter_to_helpfulness(write):
    counts = sources.Counts()
    (pair,) = sources.comparisons(
        write(CONTRADICTION), need='better', contradictions='error', counts=counts
    )
    assert pair.better == 1
    assert counts == {'read': 1, 'kept': 1}
