"""Elo ratings: hand-computed ones, identities, and how often intervals hold."""

import itertools
import math

import numpy as np
import pytest

from beaver_jax.evaluate import elo


def games(first, second, wins, ties, losses):
    outcomes = [1.0] * wins + [0.5] * ties + [0.0] * losses
    return [elo.Comparison(first, second, outcome) for outcome in outcomes]


def ratings(comparisons, anchor):
    return {name: one.rating for name, one in elo.rate(comparisons, anchor).items()}


def test_two_models():
    found = elo.rate(games('a', 'b', 30, 0, 10), anchor='b')
    assert found['b'] == (1000, 1000, 1000)
    # 400·log10(30.5 / 10.5) = 400·0.46311
    assert found['a'].rating == pytest.approx(1185.25, abs=0.01)
    # 1.959964·√(1/30.5 + 1/10.5) = 0.701296 in log-odds, times 400 / ln 10 = 173.7178
    assert found['a'].high - found['a'].rating == pytest.approx(121.83, abs=0.01)
    assert found['a'].rating - found['a'].low == pytest.approx(121.83, abs=0.01)


def test_a_tie_is_half_a_win_and_varies_less():
    found = elo.rate(games('a', 'b', 10, 20, 10), anchor='b')['a']
    assert found.rating == pytest.approx(1000)
    # Scores ±½ of 20 comparisons, 0 of ties, and of the virtual tie ½·(¼ + ¼):
    # 20/4 + 1/4 = 5.25. Information 41/4 = 10.25. √5.25 / 10.25 = 0.223541, times
    # 1.959964·173.7178.
    assert found.high == pytest.approx(1076.11, abs=0.01)


@pytest.mark.parametrize('count', [1, 10, 1000])
def test_a_model_that_wins_everything_has_a_rating(count):
    found = elo.rate(games('a', 'b', count, 0, 0), anchor='b')['a']
    odds = (count + 0.5) / 0.5
    assert found.rating == pytest.approx(1000 + 400 * math.log10(odds))
    reach = 1.959964 * math.sqrt(1 / (count + 0.5) + 1 / 0.5)
    assert found.high - found.rating == pytest.approx(reach * 173.7178)


def test_without_the_prior_it_has_none():
    with pytest.raises(ValueError, match='no maximum: some models have won'):
        elo.fit(np.array([[0.0, 5.0], [0.0, 0.0]]), anchor=1)


def test_of_a_chain_distances_add_up():
    # Without a cycle every pair is on its own, and its virtual tie a whole one.
    found = ratings(games('a', 'b', 7, 0, 3) + games('b', 'c', 4, 0, 1), anchor='c')
    # 400·log10(4.5 / 1.5) = 190.85; 400·log10(7.5 / 3.5) = 132.39
    assert found == pytest.approx({'a': 1323.24, 'b': 1190.85, 'c': 1000}, abs=0.01)


def test_a_circle_of_wins_is_a_draw():
    circle = [one for pair in ('ab', 'bc', 'ca') for one in games(*pair, 3, 0, 1)]
    assert ratings(circle, 'a') == pytest.approx(dict.fromkeys('abc', 1000))


def test_the_prior_has_a_tie_for_every_rating_to_be_found():
    # Of three models that are compared alike, each pair has a third of two ties.
    assert elo.prior(np.ones((3, 3)) - np.eye(3)) == pytest.approx(
        (1 - np.eye(3)) * 2 / 3
    )
    wins = np.random.default_rng(0).integers(0, 9, (6, 6)) * (1 - np.eye(6))
    assert np.triu(elo.prior(wins)).sum() == pytest.approx(5)


def test_the_anchor_and_the_order_move_no_distance():
    some = (
        games('a', 'b', 5, 2, 3) + games('c', 'a', 9, 0, 1) + games('b', 'c', 2, 4, 4)
    )
    found = ratings(some, 'a')
    turned = [elo.Comparison(y, x, 1 - outcome) for x, y, outcome, _ in some[::-1]]
    for other in (ratings(some, 'c'), ratings(turned, 'c')):
        shift = found['c'] - 1000
        assert {name: x + shift for name, x in other.items()} == pytest.approx(found)


def test_a_dominated_field_is_found():
    # Newton's steps from equal strengths would overshoot.
    names = 'abcdef'
    field = [
        one
        for pair in itertools.combinations(names, 2)
        for one in games(*pair, 500, 0, 0)
    ]
    found = ratings(field, 'f')
    assert all(found[x] > found[y] + 300 for x, y in itertools.pairwise(names))


def test_scores_are_compared_prompt_by_prompt():
    nan = math.nan
    scores = {'a': np.array([1.0, 2.0, nan]), 'b': np.array([0.0, 2.0, 5.0])}
    assert list(elo.by_scores(scores | {'c': np.array([3.0, nan, 4.0])})) == [
        ('a', 'b', 1.0, 0),
        ('a', 'c', 0.0, 0),
        ('b', 'c', 0.0, 0),
        ('a', 'b', 0.5, 1),
        ('b', 'c', 1.0, 2),
    ]


# ---- Coverage -----------------------------------------------------------------------


def coverage(draw, truth, repeats=1000):
    """How often the intervals of `draw(random)` held each true rating."""
    random = np.random.default_rng(0)
    held = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        found = elo.rate(draw(random), anchor=next(iter(truth)))
        for name, (_, low, high) in found.items():
            held[name] += low <= truth[name] <= high
    return {name: held[name] / repeats for name in list(truth)[1:]}


@pytest.mark.parametrize(
    ('truth', 'count', 'ties'),
    [
        ({'a': 1000, 'b': 1100, 'c': 900}, 50, 0.4),
        ({'a': 1000, 'b': 1200, 'c': 1500}, 30, 0.0),
    ],
)
def test_intervals_hold_the_truth_in_95_of_100_cases(truth, count, ties):
    """Of independent comparisons whose expected outcome is that of the model."""

    def draw(random):
        for one, other in itertools.combinations(truth, 2):
            win = 1 / (1 + 10 ** ((truth[other] - truth[one]) / 400))
            tie = ties * min(win, 1 - win)
            chances = [win - tie / 2, tie, 1 - win - tie / 2]
            yield from games(one, other, *random.multinomial(count, chances))

    for covered in coverage(draw, truth).values():
        assert 0.93 <= covered <= 0.97


def test_comparisons_of_one_prompt_may_depend_on_each_other():
    """Scores whose order is by chance, of which one is behind all of its pairs.

    The larger of two numbers with standard Gumbel noise is that of a with probability
    σ(θ_a - θ_b).
    """
    truth = {'a': 1000.0, 'b': 1100.0, 'c': 1250.0}
    theta = np.array([[(x - 1000) / elo.POINTS for x in truth.values()]])

    def draw(random):
        scores = theta + random.gumbel(size=(50, 3))
        return elo.by_scores(dict(zip(truth, scores.T, strict=True)))

    for covered in coverage(draw, truth).values():
        assert 0.93 <= covered <= 0.97
    # As if they did not, the intervals would be too narrow.
    alone = coverage(
        lambda random: (one._replace(group=None) for one in draw(random)), truth, 300
    )
    assert max(alone.values()) < 0.93


# ---- Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('comparisons', 'anchor', 'message'),
    [
        (games('a', 'b', 1, 0, 0), 'c', "'c' was compared with nothing.* a, b"),
        ([], 'c', "'c' was compared with nothing.* no models"),
        (
            games('a', 'b', 3, 0, 1) + games('c', 'd', 3, 0, 1),
            'b',
            'no chain of comparisons joins c, d to b.*an anchor of its own',
        ),
        (games('a', 'a', 1, 0, 0), 'a', 'compares a model with itself'),
        ([elo.Comparison('a', 'b', 2)], 'a', 'outcome=2.*has no outcome: 1 where'),
        ([elo.Comparison('a', 'b', math.nan)], 'a', 'has no outcome: 1 where'),
    ],
)
def test_bad_input(comparisons, anchor, message):
    with pytest.raises(ValueError, match=message):
        elo.rate(comparisons, anchor)


def test_a_level_is_between_0_and_1():
    with pytest.raises(ValueError, match='level=95; must be between 0 and 1'):
        elo.rate(games('a', 'b', 1, 0, 0), 'a', level=95)
