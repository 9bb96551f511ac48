"""Checkpoints: whole or not there, and the same bits back."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import pytest

from beaver_jax import checkpoint
from beaver_jax import compilation
from tests import states


def test_the_same_bits_and_the_position_come_back(tmp_path):
    state = states.make()
    position = {'pairs': {'next_index': 7, 'more': [1, 'a']}}
    with states.opened(tmp_path) as checkpoints:
        assert checkpoints.restore(states.abstract(state)) is None
        checkpoints.save(5, state, position)
    with states.opened(tmp_path) as checkpoints:
        found = checkpoints.restore(states.abstract(state))
    assert found is not None
    step, restored, where = found
    assert (step, where) == (5, position)
    assert states.bits(restored) == states.bits(state)
    types = [[x.dtype for x in jax.tree.leaves(tree)] for tree in (restored, state)]
    assert types[0] == types[1]


def test_the_only_program_of_saving_is_that_of_the_checksums(tmp_path):
    state = states.make(width=3, data=8)  # a shape that no other test saves
    with states.opened(tmp_path) as checkpoints, compilation.Counter() as compiled:
        compiled.reset()
        checkpoints.save(1, state, {})
        assert compiled.programs == 1
        compiled.reset()
        checkpoints.save(2, state, {})
        assert compiled.programs == 0


def test_another_mesh_gets_its_own_shards_of_the_same_bits(tmp_path):
    state = states.make(spec=PartitionSpec('fsdp', 'tensor'), data=2, fsdp=2, tensor=2)
    with states.opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    other = states.make(spec=PartitionSpec('fsdp'), data=1, fsdp=8)
    with states.opened(tmp_path) as checkpoints:
        found = checkpoints.restore(states.abstract(other))
    assert found is not None
    restored = found[1].params['kernel']
    assert states.bits(found[1]) == states.bits(state)
    assert restored.sharding == other.params['kernel'].sharding
    assert restored.addressable_shards[0].data.shape == (1, 4)


def test_the_newest_few_are_kept(tmp_path):
    with states.opened(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 5):
            checkpoints.save(step, states.make(), {'step': step})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5]
    with states.opened(tmp_path) as checkpoints:
        found = checkpoints.restore(states.abstract(states.make()))
        assert found is not None
        assert (found[0], found[2]) == (5, {'step': 5})


def kept(directory, best, worths, start=1):
    """Steps that stay of those saved, one for each worth, beside the newest one."""
    with checkpoint.Checkpoints(directory, keep=1, best=best) as checkpoints:
        for step, worth in enumerate(worths, start=start):
            metrics = {'train/reward': worth, 'train/loss': 0.0}
            checkpoints.save(
                step, states.make(), step, None if worth is None else metrics
            )
        checkpoints.wait()
        return checkpoints.steps()


def test_the_best_are_kept_beside_the_newest_also_by_a_later_start(tmp_path):
    best = checkpoint.Best(2, 'train/reward', 'max')
    where = tmp_path / 'checkpoints'
    # 5 and 4, of steps 2 and 4, and the newest.
    assert kept(where, best, [3, 5, 1, 4, 0]) == [2, 4, 5]
    # 5 and 4.5: what the earlier ones were worth is known.
    assert kept(where, best, [4.5, 1], start=6) == [2, 6, 7]
    with states.opened(tmp_path) as checkpoints:
        found = checkpoints.restore(states.abstract(states.make()))
        assert found is not None
        assert (found[0], found[2]) == (7, 7)  # a run goes on from the newest


def test_the_least_is_best_where_the_config_says_so(tmp_path):
    best = checkpoint.Best(1, 'train/reward', 'min')
    # Neither NaN nor what is not known is the least.
    assert kept(tmp_path / 'c', best, [3, math.nan, 2, None, 4]) == [3, 5]


@pytest.mark.parametrize('mode', ['min', 'max'])
def test_what_was_judged_by_another_metric_is_not_the_best(mode, tmp_path):
    where = tmp_path / 'c'
    assert kept(where, checkpoint.Best(1, 'train/loss', mode), [7]) == [1]
    best = checkpoint.Best(1, 'train/reward', mode)
    assert kept(where, best, [1, 1, 1], start=2)[-1] == 4
    assert 1 not in kept(where, best, [1], start=5)


def test_none_of_the_best_are_kept_where_none_are_wanted(tmp_path):
    best = checkpoint.Best(0, 'train/reward', 'max')
    assert kept(tmp_path / 'c', best, [3, 5, 1]) == [3]


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path):
    with states.opened(tmp_path) as checkpoints:
        checkpoints.save(1, states.make(), {})
        checkpoints.save(2, states.make(), {})
    (whole,) = tmp_path.glob('checkpoints/2')
    half = whole.with_name('2.orbax-checkpoint-tmp')
    whole.rename(half)
    with states.opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        found = checkpoints.restore(states.abstract(states.make()))
        assert found is not None
        assert found[0] == 1
        assert not half.exists()
        checkpoints.save(2, states.make(), {})
    with states.opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2]


def test_another_architecture_is_refused_with_names_and_shapes(tmp_path):
    state = states.make()
    with states.opened(tmp_path) as checkpoints:
        checkpoints.save(4, state, {})
    wider = states.make(width=3).replace(opt_state=state.opt_state)
    changed = wider.replace(params=wider.params | {'bias': jnp.zeros(2)})
    with (
        states.opened(tmp_path) as checkpoints,
        pytest.raises(checkpoint.CheckpointError) as caught,
    ):
        checkpoints.restore(states.abstract(changed))
    message = str(caught.value)
    assert 'the checkpoint of step 4 is of another architecture or optimizer' in message
    assert 'missing: params/bias;' in message
    assert 'wrong shape: params/kernel is (8, 4), not (8, 3)' in message
    without = state.replace(params={})
    with (
        states.opened(tmp_path) as checkpoints,
        pytest.raises(checkpoint.CheckpointError, match='left over: params/kernel'),
    ):
        checkpoints.restore(states.abstract(without))


@pytest.fixture
def full(monkeypatch):
    """Makes every later save fail as on a full disk, in the background."""

    def fill(checkpoints):
        save = checkpoints._checkpointer.save_async

        class Pending:
            def result(self):
                raise ValueError('RESOURCE_EXHAUSTED: No space left on device')

        assert callable(save)
        monkeypatch.setattr(
            checkpoints._checkpointer, 'save_async', lambda *_, **__: Pending()
        )

    return fill


def test_a_failed_save_names_the_last_whole_one(tmp_path, full):
    with (
        pytest.raises(checkpoint.CheckpointError) as caught,
        states.opened(tmp_path) as found,
    ):
        found.save(1, states.make(), {})
        found.wait()
        full(found)
        found.save(2, states.make(), {})
        found.save(3, states.make(), {})
        pytest.fail('the failure of step 2 shows when step 3 is saved')
    assert str(caught.value) == (
        f'{tmp_path}/checkpoints: a checkpoint could not be saved (RESOURCE_EXHAUSTED: '
        'No space left on device); the last whole one is of step 1. Free some space '
        'and start the run again: it resumes there.'
    )
    with states.opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_a_failed_first_save_says_that_none_is_whole(tmp_path, full):
    with (
        pytest.raises(checkpoint.CheckpointError, match=r'; none is whole\.'),
        states.opened(tmp_path) as checkpoints,
    ):
        full(checkpoints)
        checkpoints.save(1, states.make(), {})


def test_a_failed_save_does_not_hide_what_ended_the_run(tmp_path, full, caplog):
    with pytest.raises(KeyboardInterrupt), states.opened(tmp_path) as checkpoints:
        full(checkpoints)
        checkpoints.save(1, states.make(), {})
        raise KeyboardInterrupt
    assert 'a checkpoint could not be saved' in caplog.text


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(checkpoint.CheckpointError) as caught:
        states.opened(tmp_path / 'file')
    assert 'cannot be written' in str(caught.value)
    assert 'set config.run to a directory with space' in str(caught.value)


def test_none_may_be_kept(tmp_path):
    with pytest.raises(ValueError, match=r'config\.checkpoint\.keep=0; must be'):
        states.opened(tmp_path, keep=0)


def test_parts_are_read_while_a_run_goes_on(tmp_path):
    state = states.make()
    where = tmp_path / 'checkpoints'
    with states.opened(tmp_path) as checkpoints:
        checkpoints.save(1, states.make(), {})
        checkpoints.save(2, state, {})
        checkpoints.wait()
        half = where / '3.orbax-checkpoint-tmp'
        half.mkdir()
        wanted = {'params': states.abstract(state).params}
        found = checkpoint.read(where, wanted)
        assert half.exists()
        assert (found.step, found.bases, found.trees.keys()) == (2, {}, {'params'})
        assert states.bits(found.trees['params']) == states.bits(state.params)
        assert checkpoint.read(where, wanted, 1).step == 1
        with pytest.raises(checkpoint.CheckpointError) as caught:
            checkpoint.read(where, wanted, 7)
    assert str(caught.value) == f'{where}: no checkpoint of step 7; there are 1, 2.'


def test_parts_that_are_not_there(tmp_path):
    where = tmp_path / 'checkpoints'
    with pytest.raises(checkpoint.CheckpointError, match=r'no checkpoints there\.'):
        checkpoint.read(where, {})
    assert not where.exists()
    with states.opened(tmp_path) as checkpoints:
        with pytest.raises(checkpoint.CheckpointError, match='no whole checkpoint'):
            checkpoint.read(where, {})
        checkpoints.save(1, states.make(), {})
    wider = states.abstract(states.make(width=3)).params
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.read(where, {'params': wider | {'bias': wider['kernel']}})
    message = str(caught.value)
    assert 'missing: params/bias; wrong shape: params/kernel is (8, 4), not' in message
    with pytest.raises(checkpoint.CheckpointError, match='left over: params/kernel'):
        checkpoint.read(where, {'params': {}})


def test_adapters_remember_their_base(tmp_path):
    state = states.make()

    def over(bases):
        return checkpoint.Checkpoints(tmp_path / 'c', keep=2, bases=bases)

    with over({'actor.init': 'a', 'reward.init': 'r'}) as checkpoints:
        checkpoints.save(1, state, {})
    wanted = {'params': states.abstract(state).params}
    found = checkpoint.read(tmp_path / 'c', wanted)
    assert found.bases == {'actor.init': 'a', 'reward.init': 'r'}
    with over({'actor.init': 'a', 'reward.init': 'r'}) as checkpoints:
        assert checkpoints.restore(states.abstract(state)) is not None
    with (
        over({'actor.init': 'a', 'reward.init': 'other'}) as checkpoints,
        pytest.raises(checkpoint.CheckpointError, match=r'of config\.reward\.init are'),
    ):
        checkpoints.restore(states.abstract(state))
