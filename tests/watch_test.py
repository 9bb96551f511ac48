"""Signs of a diverging policy in rows of metrics."""

import functools
import math

import pytest

from beaver_jax import watch

BOUNDS = watch.Bounds(then='warn', kl=10.0, entropy=0.1, reward_drop=2.0, window=2)


def rows(**series):
    """Rows from step 1; what is not given is that of a healthy policy."""
    names = {'kl': watch.KL, 'entropy': watch.ENTROPY, 'reward': watch.REWARD}
    count = len(next(iter(series.values())))
    healthy = {'kl': 1.0, 'entropy': 0.5, 'reward': 0.0}
    return [
        {'step': i + 1, watch.SPREAD: 0.5}
        | {names[k]: series[k][i] if k in series else healthy[k] for k in names}
        for i in range(count)
    ]


def fold(given, bounds=BOUNDS, start=None):
    """The history after every row."""
    found = [start or watch.History()]
    for row in given:
        found.append(watch.observe(found[-1], row, bounds))
    return found


def told(given, bounds=BOUNDS):
    """(step, kind) of everything that is told."""
    found = fold(given, bounds)
    return [
        (row['step'], next(kind for kind, one in now.signs.items() if one == text))
        for row, before, now in zip(given, found[:-1], found[1:], strict=True)
        for text in watch.new(before, now)
    ]


def test_the_mean_of_the_window_is_judged_not_a_step():
    # Means of two: 1, 8, 10.5, 10.5; only the last two are above 10.
    given = rows(kl=[1, 1, 15, 6, 15])
    found = fold(given)
    assert [sorted(one.signs) for one in found] == [[], [], [], [], ['kl'], ['kl']]
    assert found[4].signs['kl'] == (
        'the KL to the reference is 10.5 nats, above config.watch.kl=10'
    )
    assert told(given) == [(4, 'kl')]


def test_nothing_is_judged_before_the_window_is_full():
    assert told(rows(kl=[90], entropy=[0.0])) == []


def test_entropy_near_zero():
    # (0.3 + 0.05) / 2 = 0.175, then 0.05.
    given = rows(entropy=[0.3, 0.05, 0.05])
    assert told(given) == [(3, 'entropy')]
    assert fold(given)[-1].signs['entropy'] == (
        'the entropy is 0.05 nats, below config.watch.entropy=0.1'
    )


def test_a_reward_far_below_its_best():
    # Means 2, 2.5, 1.5, 0.5; the best is 2.5 of step 3. A standard deviation is 0.5, so
    # 1.5 is 2 of them below, which is not more than 2, and 0.5 is 4.
    given = rows(reward=[2, 2, 3, 0, 1])
    assert told(given) == [(5, 'reward')]
    assert fold(given)[-1].signs['reward'] == (
        'the reward is 0.5, 4.0 standard deviations below its 2.5 of step 3, more than '
        'config.watch.reward_drop=2'
    )


def test_the_standard_deviation_is_that_of_the_first_responses():
    given = rows(reward=[2, 2, 0.5, 0.5])
    for row in given[2:]:
        row[watch.SPREAD] = 50.0
    # 1.5 below the best, of 0.5 each: 3.
    assert told(given) == [(4, 'reward')]


def test_an_episode_is_told_once_and_one_after_quiet_rows_again():
    # Means: 20 20 10.5 1 20 | above at steps 2, 3, 4; below at 5, above at 6: no whole
    # window of two rows was quiet.
    hovering = rows(kl=[20, 20, 20, 1, 1, 39])
    assert told(hovering) == [(2, 'kl')]
    # Below at 5 and 6.
    again = rows(kl=[20, 20, 20, 1, 1, 1, 39])
    assert told(again) == [(2, 'kl'), (7, 'kl')]


@pytest.mark.parametrize('cut', range(8))
def test_a_fold_from_any_row_on_goes_on_as_if_nothing_had_been(cut):
    given = rows(
        kl=[20, 20, 20, 1, 1, 1, 39],
        reward=[2, 2, 3, 0, 1, 3, 3],
        entropy=[0.5, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0],
    )
    whole = fold(given)
    assert fold(given[cut:], start=fold(given[:cut])[-1]) == whole[cut:]


def test_rows_that_are_not_finite_or_lack_a_metric_do_not_count():
    given = rows(kl=[20, math.nan, math.inf, 20])
    del given[1][watch.KL]
    found = fold(given)
    assert found[1] == found[2] == found[3]
    assert told(given) == [(4, 'kl')]


@pytest.mark.parametrize('changes', [{'kl': 0.0}, {'then': 'ignore'}])
def test_bounds_of_zero_and_ignore_say_nothing(changes):
    values = {'then': 'warn', 'kl': 10.0, 'entropy': 0.0, 'reward_drop': 0.0}
    bounds = watch.Bounds(**values | changes, window=2)
    assert told(rows(kl=[99, 99], entropy=[0.0, 0.0], reward=[9, -99]), bounds) == []


def test_sound_is_what_came_before_the_window():
    # Rows 3 and 4 are judged: those of step 2 and before are sound.
    found = functools.reduce(
        lambda history, row: watch.observe(history, row, BOUNDS),
        rows(kl=[1, 1, 20, 20]),
        watch.History(),
    )
    assert found.sound == 2


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'then': 'end'}, "then='end'; known: warn, stop, ignore."),
        ({'kl': -1.0}, 'kl=-1.0; use a number from 0, 0 for none.'),
        ({'entropy': math.nan}, 'entropy=nan; use a number from 0, 0 for none.'),
        ({'reward_drop': math.inf}, 'reward_drop=inf; use a number from 0, 0 for none'),
        ({'window': 0}, 'window=0; must be at least 1.'),
    ],
)
def test_bounds_out_of_range(changes, message):
    values = {'then': 'warn', 'kl': 1.0, 'entropy': 0.1, 'reward_drop': 1.0}
    with pytest.raises(ValueError) as caught:
        watch.Bounds(**{**values, 'window': 2, **changes})
    assert message in str(caught.value)
