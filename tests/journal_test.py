"""What the training loop thinks of each step: when it warns, and when it ends."""

import concurrent.futures
import logging
import pathlib
import types

import ml_collections
import pytest

from beaver_jax import journal as journal_lib
from beaver_jax import watch


class Writer:
    """Keeps what is written."""

    def __init__(self):
        self.steps = []

    def write(self, step, values):
        self.steps.append(step)

    def write_timings(self, step, values):
        pass


def journal(*, then='warn', every=1, start=0, best=0):
    config = ml_collections.ConfigDict(
        {
            'stage': 'ppo',
            'log': {'every': every},
            'max_bad_steps': 2,
            'checkpoint': {'best': best, 'metric': 'train/rewards'},
        }
    )
    bounds = watch.Bounds(then=then, kl=10.0, entropy=0.0, reward_drop=0.0, window=2)
    stage = types.SimpleNamespace(
        rates={},
        steps=100,
        bounds=bounds,
        glance=lambda found: {},
        pace=lambda found, seconds: {},
    )
    progress = types.SimpleNamespace(update=lambda *unused: None)
    return journal_lib.Journal(config, stage, Writer(), progress, start)


def metrics(kl, bad=0):
    return {
        watch.KL: kl,
        watch.ENTROPY: 1.0,
        watch.REWARD: 0.0,
        watch.SPREAD: 1.0,
        'train/bad_steps': bad,
    }


def write(found, kls, *, start=0, bad=0):
    for step, kl in enumerate(kls, start=start):
        seconds = concurrent.futures.Future()
        seconds.set_result({})
        found.write(step, metrics(kl, bad), seconds)


def test_it_warns_once_and_goes_on(caplog):
    found = journal()
    write(found, [1, 1, 99, 99, 99])
    # (1 + 99) / 2 = 50, of step 3.
    assert [record.getMessage() for record in caplog.records] == [
        'ppo, step 3: the KL to the reference is 50.0 nats, above config.watch.kl=10'
    ]
    assert found.trouble is None
    assert (found.sound, found.step) == (5, 5)


def test_what_was_told_before_a_restart_is_not_told_again(caplog):
    found = journal(start=3)
    rows = [{'step': i + 1} | metrics(kl) for i, kl in enumerate([1, 1, 99])]
    found.recall(rows)
    write(found, [99, 99], start=3)
    assert not caplog.records
    # Without them it would be.
    other = journal(start=3)
    write(other, [99, 99], start=3)
    assert len(caplog.records) == 1


def test_it_ends_a_run_that_is_to_stop():
    found = journal(then='stop')
    write(found, [1, 1, 1])
    assert found.trouble is None
    write(found, [99], start=3)
    what, remedy = found.trouble
    assert what == 'the KL to the reference is 50.0 nats, above config.watch.kl=10'
    assert 'config.ppo.kl_coeff' in remedy
    assert found.sound == 2  # steps 3 and 4 are judged


def test_only_rows_that_are_written_are_judged():
    found = journal(then='stop', every=2)
    write(found, [1, 99, 1, 99, 1, 99])  # steps 1, 3 and 5 are written
    assert found._writer.steps == [1, 3, 5]
    assert found.trouble is None


def test_updates_that_are_not_finite_end_it_whatever_the_watch_says(caplog):
    found = journal(then='ignore')
    write(found, [1])
    write(found, [1], start=1, bad=1)
    assert (found.bad, found.trouble) == (1, None)
    write(found, [1], start=2, bad=2)
    assert found.trouble[0].startswith('2 updates in a row had non-finite gradients')
    assert found.sound == 1


def test_a_metric_that_there_is_not_is_told_at_the_first_step():
    with pytest.raises(journal_lib.RunError) as caught:
        write(journal(best=1), [1])
    assert str(caught.value).startswith(
        "config.checkpoint.metric='train/rewards' is no metric of this stage; did you "
        'mean train/reward'
    )


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.WARNING, 'beaver_jax')


@pytest.mark.parametrize(
    ('saved', 'message'),
    [
        ([], 'there is no good checkpoint yet.'),
        ([2, 3], 'there is no good checkpoint yet.'),
        ([1], 'the last good checkpoint is d/checkpoints/1.'),
        (
            [1, 2, 3],
            'the last good checkpoint is d/checkpoints/1, remove d/checkpoints/2 and '
            'd/checkpoints/3 to go back to it.',
        ),
    ],
)
def test_the_last_good_checkpoint_is_one_whose_next_step_was_sound(saved, message):
    found = journal(then='stop')
    write(found, [1, 1, 1, 99])
    checkpoints = types.SimpleNamespace(wait=lambda: None, steps=lambda: saved)
    error = journal_lib.ended(found, checkpoints, pathlib.Path('d'))
    assert message in str(error)
