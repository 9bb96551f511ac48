"""Tests of means with intervals, and of the Pareto front."""

import itertools
import math
import random

import pytest

from beaver_jax.report import files
from beaver_jax.report import pareto
from tests.report import made


def test_an_interval_by_hand():
    # Mean 2; squares of differences 1 + 1 + 0 + 0 + 4 + 4 = 10, s² = 10/5 = 2;
    # 1.959964·√(2/6) = 1.131586.
    found = pareto.mean([1.0, 3.0, 2.0, 2.0, 0.0, 4.0])
    assert found.value == 2.0
    assert found.half == pytest.approx(1.131586, abs=1e-6)
    assert found.interval == pytest.approx([0.868414, 3.131586], abs=1e-6)


def test_what_is_not_finite_is_left_out_of_means():
    assert pareto.mean([1.0, math.nan, 3.0, math.inf]) == pareto.mean([1.0, 3.0])
    assert math.isnan(pareto.mean([math.nan]).value)
    one = pareto.mean([1.5, math.nan])
    assert one.value == 1.5
    assert one.interval is None  # one draw says nothing of how far they spread


def test_the_interval_holds_the_truth_nearly_as_often_as_it_says():
    rng = random.Random(0)
    draws = ([rng.gauss(1.0, 2.0) for _ in range(64)] for _ in range(2000))
    means = [pareto.mean(draw) for draw in draws]
    held = sum(abs(found.value - 1.0) <= found.half for found in means) / len(means)
    # Of 64 draws t would give 0.95, the normal 0.9455; ± 4·√(0.95·0.05/2000) = 0.0195.
    assert abs(held - 0.9455) < 0.0195


def test_a_policy_without_answers_has_the_mean_that_was_written(run):
    (run / 'evaluate' / 'samples.jsonl').unlink()
    read = files.load(run)
    found = pareto.measured(read, 'ppo_lag', 'cost')
    assert (found.value, found.interval) == (-1.0, None)
    assert math.isnan(pareto.measured(read, 'ppo_lag', 'cost/length').value)


def test_means_are_those_of_the_answers(run):
    rows = [
        {'prompt': f'{n}', 'answers': {'sft': {'text': '', 'reward': reward}}}
        for n, reward in enumerate([1.0, 3.0, 2.0, 2.0, 0.0, 4.0])
    ]
    made.write_lines(run / 'evaluate' / 'samples.jsonl', rows)
    read = files.load(run)
    assert pareto.measured(read, 'sft', 'reward').value == 2.0
    assert pareto.measured(read, 'ppo', 'reward').value == 2.0  # from results.json


def points(values):
    return [
        pareto.Point('run', f'{n}', pareto.Mean(cost, 0.1), pareto.Mean(reward, 0.1))
        for n, (cost, reward) in enumerate(values)
    ]


def dominates(one, other):
    """The definition."""
    no_worse = (
        one.reward.value >= other.reward.value and one.cost.value <= other.cost.value
    )
    better = one.reward.value > other.reward.value or one.cost.value < other.cost.value
    return no_worse and better


def test_the_front_by_its_definition():
    rng = random.Random(0)
    # Few values, so that ties and equal points are many.
    levels = [0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf]
    for count in itertools.chain(range(7), [20] * 200):
        some = points([(rng.choice(levels), rng.choice(levels)) for _ in range(count)])
        finite = [
            p
            for p in some
            if math.isfinite(p.cost.value) and math.isfinite(p.reward.value)
        ]
        expected = {
            p.policy for p in finite if not any(dominates(q, p) for q in finite)
        }
        front = pareto.front(some)
        assert {p.policy for p in front} == expected
        assert len(front) == len(expected)
        costs = [p.cost.value for p in front]
        assert costs == sorted(costs)


@pytest.mark.parametrize(
    ('values', 'front'),
    [
        ([(0, 1), (0, 2)], '1'),  # the same cost
        ([(0, 1), (1, 1)], '0'),  # the same reward
        ([(0, 1), (0, 1)], '01'),  # the same point
        ([(2, 3), (0, 1), (1, 0.5), (1, 2)], '130'),
        ([(math.nan, 9), (0, 1)], '1'),
        ([(0, math.nan)], ''),
        ([], ''),
    ],
)
def test_fronts_by_hand(values, front):
    assert ''.join(p.policy for p in pareto.front(points(values))) == front
