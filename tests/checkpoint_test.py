"""Checkpoints: whole or not there, and the same bits back."""

import json
import math
import pathlib
import shutil

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from beaver_jax import checkpoint
from beaver_jax import compilation
from beaver_jax import sharding

WHOLE = PartitionSpec()


class State(struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: optax.OptState


def make(width=4, spec=WHOLE, **mesh) -> State:
    """A state with odd bits: NaN, infinity, -0 and a denormal number."""
    kernel = jnp.arange(8 * width, dtype=jnp.float32).reshape(8, width) / 7
    kernel = kernel.at[0].set(jnp.array([jnp.nan, jnp.inf, -0.0, 1e-42][:width]))
    devices = sharding.make_mesh(**mesh)
    params = {'kernel': jax.device_put(kernel, NamedSharding(devices, spec))}
    small = {'kernel': kernel.astype(jnp.bfloat16)}
    rest = jnp.int32(3), optax.adam(1e-3).init(small)
    step, opt_state = jax.device_put(rest, sharding.replicated(devices))
    return State(step, params, opt_state)


def abstract(state: State):
    return checkpoint.abstract(state, jax.tree.map(lambda x: x.sharding, state))


def bits(state: State) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def opened(directory: pathlib.Path, keep: int = 2) -> checkpoint.Checkpoints:
    return checkpoint.Checkpoints(directory / 'checkpoints', keep=keep)


def test_the_same_bits_and_the_position_come_back(tmp_path):
    state = make()
    position = {'pairs': {'next_index': 7, 'more': [1, 'a']}}
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(state)) is None
        checkpoints.save(5, state, position)
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore(abstract(state))
    assert found is not None
    step, restored, where = found
    assert (step, where) == (5, position)
    assert bits(restored) == bits(state)
    types = [[x.dtype for x in jax.tree.leaves(tree)] for tree in (restored, state)]
    assert types[0] == types[1]


def test_the_only_program_of_saving_is_that_of_the_checksums(tmp_path):
    state = make(width=3, data=8)  # a shape that no other test saves
    with opened(tmp_path) as checkpoints, compilation.Counter() as compiled:
        compiled.reset()
        checkpoints.save(1, state, {})
        assert compiled.programs == 1
        compiled.reset()
        checkpoints.save(2, state, {})
        assert compiled.programs == 0


def files(directory: pathlib.Path, least: int = 0) -> list[pathlib.Path]:
    found = sorted(directory.rglob('*'))
    return [x for x in found if x.is_file() and x.stat().st_size >= least]


def flip(file: pathlib.Path, at: int) -> None:
    """Changes a bit of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 16
    file.write_bytes(content)


def truncate(step: pathlib.Path) -> None:
    for file in files(step, least=200):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete_half(step: pathlib.Path) -> None:
    for file in files(step)[::2]:
        file.unlink()


def without_values(step: pathlib.Path) -> None:
    for file in (step / 'state').glob('**/d/*'):
        file.unlink()


def other_sums(step: pathlib.Path) -> None:
    """As if other bits had come back, which no check of the files can tell."""
    file = step / '_CHECKPOINT_METADATA'
    content = json.loads(file.read_text())
    content['custom_metadata']['checksums']['params/kernel'] ^= 1
    file.write_text(json.dumps(content))


@pytest.mark.parametrize('damage', [truncate, delete_half, without_values, other_sums])
def test_a_broken_checkpoint_is_put_aside_and_the_one_before_is_used(
    damage, tmp_path, caplog
):
    state = make()
    with opened(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state.replace(step=state.step + step), step)
    damage(tmp_path / 'checkpoints' / '3')
    with opened(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore(abstract(state))
        assert found is not None
        assert (found[0], int(found[1].step), found[2]) == (2, 5, 2)  # 3 + 2
        where = f'{tmp_path}/checkpoints: the checkpoint of step 3 is broken and not'
        assert where in caplog.text
        # The run comes there again.
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, state, 3)
    assert (tmp_path / 'checkpoints.broken' / '3').is_dir()
    with opened(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore(abstract(state))
        assert found is not None
        assert bits(found[1]) == bits(state)


def test_every_flipped_bit_of_the_values_is_noticed(tmp_path, caplog):
    state = make()
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
    newest = tmp_path / 'checkpoints' / '2'
    (values,) = (newest / 'state').glob('d/*')
    whole = values.read_bytes()
    wanted = {'params': abstract(state).params}
    outcomes = set()
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        flip(values, at)
        caplog.clear()
        found = checkpoint.read(tmp_path / 'checkpoints', wanted)
        # What was read is right in any case; where it is of the newest, the bit was
        # of another array.
        assert bits(found.trees['params']) == bits(state.params)
        assert (found.step == 1) == ('step 2 is broken' in caplog.text)
        outcomes.add(found.step)
        values.write_bytes(whole)
    assert 1 in outcomes


def test_no_flipped_bit_of_any_file_is_restored(tmp_path):
    state = make()
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state.replace(step=jnp.int32(step)), step)
    outcomes = set()
    whole = tmp_path / 'checkpoints'
    for file in files(whole / '2'):
        size = file.stat().st_size
        for at in range(0, size, max(1, size // 8)):
            copy = tmp_path / f'{len(list(tmp_path.iterdir()))}'
            shutil.copytree(whole, copy / 'checkpoints')
            flip(copy / file.relative_to(tmp_path), at)
            with opened(copy) as checkpoints:
                found = checkpoints.restore(abstract(state))
            assert found is not None
            step, restored, position = found
            assert (int(restored.step), position) == (step, step)
            assert bits(restored)[1:] == bits(state)[1:]
            outcomes.add(step)
    assert outcomes == {1, 2}  # some bits mean nothing


def test_who_only_reads_names_a_checkpoint_that_cannot_be_listed(tmp_path):
    state = make()
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, step)
    file = tmp_path / 'checkpoints' / '2' / '_CHECKPOINT_METADATA'
    file.write_text(file.read_text().replace('"metrics"', '"metricz"'))
    wanted = {'params': abstract(state).params}
    with pytest.raises(
        checkpoint.CheckpointError, match=r'of checkpoint 2 cannot be r'
    ):
        checkpoint.read(tmp_path / 'checkpoints', wanted)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
    assert checkpoint.read(tmp_path / 'checkpoints', wanted).step == 1


def test_where_all_are_broken_none_is_lost(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make(), {})
        checkpoints.save(2, make(), {})
    for step in (1, 2):
        truncate(tmp_path / 'checkpoints' / str(step))
    for _ in range(2):  # a second start does not begin anew
        with (
            opened(tmp_path) as checkpoints,
            pytest.raises(checkpoint.CheckpointError) as caught,
        ):
            checkpoints.restore(abstract(make()))
        assert 'every checkpoint is broken (1, 2). Put back a copy' in str(caught.value)
    wanted = {'params': abstract(make()).params}
    with pytest.raises(checkpoint.CheckpointError, match='that is whole can be read'):
        checkpoint.read(tmp_path / 'checkpoints', wanted)
    with pytest.raises(checkpoint.CheckpointError, match='of step 2 can be read'):
        checkpoint.read(tmp_path / 'checkpoints', wanted, 2)


def test_another_mesh_gets_its_own_shards_of_the_same_bits(tmp_path):
    state = make(spec=PartitionSpec('fsdp', 'tensor'), data=2, fsdp=2, tensor=2)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    other = make(spec=PartitionSpec('fsdp'), data=1, fsdp=8)
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore(abstract(other))
    assert found is not None
    restored = found[1].params['kernel']
    assert bits(found[1]) == bits(state)
    assert restored.sharding == other.params['kernel'].sharding
    assert restored.addressable_shards[0].data.shape == (1, 4)


def test_the_newest_few_are_kept(tmp_path):
    with opened(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 5):
            checkpoints.save(step, make(), {'step': step})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5]
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore(abstract(make()))
        assert found is not None
        assert (found[0], found[2]) == (5, {'step': 5})


def kept(directory, best, worths, start=1):
    """Steps that stay of those saved, one for each worth, beside the newest one."""
    with checkpoint.Checkpoints(directory, keep=1, best=best) as checkpoints:
        for step, worth in enumerate(worths, start=start):
            metrics = {'train/reward': worth, 'train/loss': 0.0}
            checkpoints.save(step, make(), step, None if worth is None else metrics)
        checkpoints.wait()
        return checkpoints.steps()


def test_the_best_are_kept_beside_the_newest_also_by_a_later_start(tmp_path):
    best = checkpoint.Best(2, 'train/reward', 'max')
    where = tmp_path / 'checkpoints'
    # 5 and 4, of steps 2 and 4, and the newest.
    assert kept(where, best, [3, 5, 1, 4, 0]) == [2, 4, 5]
    # 5 and 4.5: what the earlier ones were worth is known.
    assert kept(where, best, [4.5, 1], start=6) == [2, 6, 7]
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore(abstract(make()))
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
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make(), {})
        checkpoints.save(2, make(), {})
    (whole,) = tmp_path.glob('checkpoints/2')
    half = whole.with_name('2.orbax-checkpoint-tmp')
    whole.rename(half)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        found = checkpoints.restore(abstract(make()))
        assert found is not None
        assert found[0] == 1
        assert not half.exists()
        checkpoints.save(2, make(), {})
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2]


def test_another_architecture_is_refused_with_names_and_shapes(tmp_path):
    state = make()
    with opened(tmp_path) as checkpoints:
        checkpoints.save(4, state, {})
    wider = make(width=3).replace(opt_state=state.opt_state)
    changed = wider.replace(params=wider.params | {'bias': jnp.zeros(2)})
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(checkpoint.CheckpointError) as caught,
    ):
        checkpoints.restore(abstract(changed))
    message = str(caught.value)
    assert 'the checkpoint of step 4 is of another architecture or optimizer' in message
    assert 'missing: params/bias;' in message
    assert 'wrong shape: params/kernel is (8, 4), not (8, 3)' in message
    without = state.replace(params={})
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(checkpoint.CheckpointError, match='left over: params/kernel'),
    ):
        checkpoints.restore(abstract(without))


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
    with pytest.raises(checkpoint.CheckpointError) as caught, opened(tmp_path) as found:
        found.save(1, make(), {})
        found.wait()
        full(found)
        found.save(2, make(), {})
        found.save(3, make(), {})
        pytest.fail('the failure of step 2 shows when step 3 is saved')
    assert str(caught.value) == (
        f'{tmp_path}/checkpoints: a checkpoint could not be saved (RESOURCE_EXHAUSTED: '
        'No space left on device); the last whole one is of step 1. Free some space '
        'and start the run again: it resumes there.'
    )
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_a_failed_first_save_says_that_none_is_whole(tmp_path, full):
    with (
        pytest.raises(checkpoint.CheckpointError, match=r'; none is whole\.'),
        opened(tmp_path) as checkpoints,
    ):
        full(checkpoints)
        checkpoints.save(1, make(), {})


def test_a_failed_save_does_not_hide_what_ended_the_run(tmp_path, full, caplog):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as checkpoints:
        full(checkpoints)
        checkpoints.save(1, make(), {})
        raise KeyboardInterrupt
    assert 'a checkpoint could not be saved' in caplog.text


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(checkpoint.CheckpointError) as caught:
        opened(tmp_path / 'file')
    assert 'cannot be written' in str(caught.value)
    assert 'set config.run to a directory with space' in str(caught.value)


def test_none_may_be_kept(tmp_path):
    with pytest.raises(ValueError, match=r'config\.checkpoint\.keep=0; must be'):
        opened(tmp_path, keep=0)


def test_parts_are_read_while_a_run_goes_on(tmp_path):
    state = make()
    where = tmp_path / 'checkpoints'
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make(), {})
        checkpoints.save(2, state, {})
        checkpoints.wait()
        half = where / '3.orbax-checkpoint-tmp'
        half.mkdir()
        wanted = {'params': abstract(state).params}
        found = checkpoint.read(where, wanted)
        assert half.exists()
        assert (found.step, found.bases, found.trees.keys()) == (2, {}, {'params'})
        assert bits(found.trees['params']) == bits(state.params)
        assert checkpoint.read(where, wanted, 1).step == 1
        with pytest.raises(checkpoint.CheckpointError) as caught:
            checkpoint.read(where, wanted, 7)
    assert str(caught.value) == f'{where}: no checkpoint of step 7; there are 1, 2.'


def test_parts_that_are_not_there(tmp_path):
    where = tmp_path / 'checkpoints'
    with pytest.raises(checkpoint.CheckpointError, match=r'no checkpoints there\.'):
        checkpoint.read(where, {})
    assert not where.exists()
    with opened(tmp_path) as checkpoints:
        with pytest.raises(checkpoint.CheckpointError, match='no whole checkpoint'):
            checkpoint.read(where, {})
        checkpoints.save(1, make(), {})
    wider = abstract(make(width=3)).params
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.read(where, {'params': wider | {'bias': wider['kernel']}})
    message = str(caught.value)
    assert 'missing: params/bias; wrong shape: params/kernel is (8, 4), not' in message
    with pytest.raises(checkpoint.CheckpointError, match='left over: params/kernel'):
        checkpoint.read(where, {'params': {}})


def test_adapters_remember_their_base(tmp_path):
    state = make()

    def over(bases):
        return checkpoint.Checkpoints(tmp_path / 'c', keep=2, bases=bases)

    with over({'actor.init': 'a', 'reward.init': 'r'}) as checkpoints:
        checkpoints.save(1, state, {})
    wanted = {'params': abstract(state).params}
    found = checkpoint.read(tmp_path / 'c', wanted)
    assert found.bases == {'actor.init': 'a', 'reward.init': 'r'}
    with over({'actor.init': 'a', 'reward.init': 'r'}) as checkpoints:
        assert checkpoints.restore(abstract(state)) is not None
    with (
        over({'actor.init': 'a', 'reward.init': 'other'}) as checkpoints,
        pytest.raises(checkpoint.CheckpointError, match=r'of config\.reward\.init are'),
    ):
        checkpoints.restore(abstract(state))
