"""Data cards: what is said of rows."""

import dataclasses

from beaver_jax.data import card
from beaver_jax.data import sources

PAIR = sources.Comparison(
    ('a',),
    ('b', 'c'),
    better=1,
    safer=0,
    safe=(True, False),
    harms={'x': (False, True), 'y': (False, False)},
    severity=(0, 3),
)


def lengths(*rows):
    found = card.Lengths()
    for row in rows:
        found.add(*row)
    return found


def test_pairs_their_labels_and_their_duplicates():
    swapped = dataclasses.replace(PAIR, responses=('c', 'b'), better=0, safer=None)
    other = sources.Comparison(('a', 'b', 'c'), ('d', 'e'), better=0)
    counts = sources.Counts({'read': 9, 'kept': 4, 'tie': 0})
    counts.problems['bad_field'] = 'rows.jsonl:3: no prompt.'
    found = card.describe(
        [PAIR, swapped, other],
        [dataclasses.replace(PAIR, prompt=('z',))],
        counts=counts,
        lengths=lengths((4, 2, 3), (5, 1, 1), (9, 8, 2)),
    )
    assert found['counts'] == {'read': 9, 'kept': 4}
    assert found['problems'] == {'bad_field': 'rows.jsonl:3: no prompt.'}
    assert found['train'] == {
        'rows': 3,
        'prompts': 2,
        'duplicates': 1,  # the same pair the other way round
        'turns': {'1': 2, '3': 1},
        'labels': {
            'better response': {'first': 2, 'second': 1},
            'safer response': {'unknown': 2, 'first': 1},
            'response': {'safe': 2, 'unsafe': 2, 'unknown': 2},
            'harm': {'x': 2, 'y': 0},
            'severity': {'0': 2, '3': 2},
        },
    }
    assert found['test']['rows'] == 1
    assert found['shared_prompts'] == 0
    assert found['tokens'] == {
        'prompt': {
            'min': 4,
            'p10': 4,
            'median': 5,
            'p90': 5,
            'p99': 5,
            'max': 9,
            'mean': 6.0,
        },
        'response': {
            'min': 1,
            'p10': 1,
            'median': 2,
            'p90': 3,
            'p99': 3,
            'max': 8,
            'mean': 17 / 6,
        },
        'prompt and response': {
            'min': 6,
            'p10': 6,
            'median': 6,
            'p90': 11,
            'p99': 11,
            'max': 17,
            'mean': 53 / 6,
        },
    }


def test_prompts_that_are_on_both_sides_are_counted():
    train = [sources.Demonstration((text,), 'r') for text in 'aabc']
    test = [sources.Demonstration((text,), 's') for text in 'bcd']
    found = card.describe(train, test, counts=sources.Counts(), lengths=lengths((1, 1)))
    assert found['shared_prompts'] == 2
    assert (found['train']['prompts'], found['train']['duplicates']) == (3, 1)
    assert found['train']['labels'] == {}


def test_what_nobody_labelled_is_not_shown():
    pair = sources.Comparison(('a',), ('b', 'c'), better=0)
    found = card.describe(
        [pair], [], counts=sources.Counts(), lengths=lengths((1, 1, 1))
    )
    labels = found['train']['labels']
    assert list(labels) == ['better response']


def test_prompts_have_no_responses():
    found = card.describe(
        [sources.Prompt(('a',))], [], counts=sources.Counts(), lengths=lengths((7,))
    )
    assert list(found['tokens']) == ['prompt']
