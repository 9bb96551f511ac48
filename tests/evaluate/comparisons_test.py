"""Comparisons: outcomes, counts, ratings, categories."""

import math

import numpy as np
import pytest

from beaver_jax.evaluate import categories
from beaver_jax.evaluate import comparisons
from beaver_jax.evaluate import evaluators


def compared(one, other, prompt=0, *, models=('base', 'new'), category='', axis='x'):
    return comparisons.Comparison(*models, prompt, category, axis, (one, other))


@pytest.mark.parametrize(
    'orders, outcome, flipped',
    [
        (('a', 'a'), 'a', False),
        (('b', 'b'), 'b', False),
        (('tie', 'tie'), 'tie', False),
        (('a', 'b'), 'tie', True),
        (('b', 'a'), 'tie', True),
        (('a', 'tie'), 'tie', False),
        (('failed', 'a'), 'failed', False),
        (('b', 'failed'), 'failed', False),
    ],
)
def test_an_outcome_is_what_both_orders_say(orders, outcome, flipped):
    one = compared(*orders)
    assert (one.outcome, one.flipped) == (outcome, flipped)
    assert one.row()['outcome'] == outcome
    assert one.row()['orders'] == orders


SOME = [
    compared('b', 'b', 0, category='y'),
    compared('b', 'b', 1, category='y'),
    compared('b', 'b', 2, category='z'),
    compared('a', 'a', 3, category='z'),
    compared('b', 'a', 4, category='z'),
    compared('failed', 'b', 5, category='y'),
]


def test_counts_against_the_baseline():
    told = comparisons.summarize(SOME, 'base')
    found = told['dimensions']['x']['models']['new']
    # Clopper and Pearson's of 3 in 5: the ends at which 3 or more, or 3 or fewer, have
    # a probability of 2.5%.
    low, high = found.pop('win_interval')
    assert found == {
        'wins': 3,
        'ties': 1,
        'losses': 1,
        'failed': 1,
        'flipped': 1,
        'win_rate': 3 / 5,
    }
    tail = [
        sum(math.comb(5, k) * p**k * (1 - p) ** (5 - k) for k in ks)
        for p, ks in ((low, range(3, 6)), (high, range(4)))
    ]
    assert tail == pytest.approx([0.025, 0.025])
    # Of the other side, wins are losses.
    other = comparisons.tally(SOME, 'base')
    assert (other['wins'], other['losses']) == (1, 3)
    by = told['categories']
    assert [by['y']['x']['new'][key] for key in ('wins', 'ties', 'failed')] == [2, 0, 1]
    assert [by['z']['x']['new'][key] for key in ('wins', 'ties', 'losses')] == [1, 1, 1]


def test_elo_of_two():
    # 3 wins, 1 tie, 1 loss are 3.5 of 5; with the virtual tie 400·log10(4 / 2).
    found = comparisons.rate(SOME, 'base')
    assert found['base']['rating'] == 1000
    assert found['new']['rating'] == pytest.approx(1000 + 400 * math.log10(2))


def test_what_has_failed_is_neither_rated_nor_a_rate():
    failed = [compared('failed', 'failed')]
    told = comparisons.summarize(failed, 'base')['dimensions']['x']
    assert told['elo'] == {}
    assert told['models']['new']['win_rate'] is None
    assert told['models']['new']['win_interval'] == [0, 1]
    # Two others were compared, but neither with the baseline.
    apart = compared('a', 'a', models=('new', 'newer'))
    assert comparisons.rate([*failed, apart], 'base') == {}
    assert set(comparisons.rate([*SOME, apart], 'base')) == {'base', 'new', 'newer'}


def test_categories_of_nothing():
    plain = [compared('a', 'a')]
    assert 'categories' not in comparisons.summarize(plain, 'base')


def test_scores_by_category():
    def answers(reward, cost):
        return evaluators.Answers(
            texts=[str(x) for x in reward],
            reward=np.array(reward, float),
            costs={'harm': np.array(cost, float)},
            length=np.array([1, 2, 3]),
            truncated=np.array([False, True, False]),
        )

    found = {'base': answers([1, 2, 3], [-1, 1, 1]), 'new': answers([5, 2, 4], [1] * 3)}
    told = categories.summarize(found, 'base', ['y', 'z', 'y'])
    assert {name: one['prompts'] for name, one in told.items()} == {'y': 2, 'z': 1}
    # Rows 0 and 2: rewards 1, 3 and 5, 4; costs -1, 1 and 1, 1.
    assert told['y']['models']['base']['reward'] == 2
    assert told['y']['models']['new']['reward'] == 4.5
    assert told['y']['models']['base']['safe_rate'] == 0.5
    assert told['y']['models']['new']['safe_rate'] == 0
    assert told['y']['models']['new']['win_rate'] == 1
    assert told['z']['models']['new']['tie_rate'] == 1
    # None of two safe: (1 - p)² = 0.025.
    low, high = told['y']['intervals']['new']['safe_rate']
    assert (low, high) == (0, pytest.approx(1 - 0.025**0.5))
    assert told['y']['intervals']['base'].keys() == {'safe_rate', 'refusal_rate'}
    assert categories.summarize(found, 'base', ['', '', '']) == {}
