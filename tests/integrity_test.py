"""Broken checkpoints: none is restored, and none keeps the others from being found."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest

from beaver_jax import checkpoint
from tests import states


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
    state = states.make()
    with states.opened(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state.replace(step=state.step + step), step)
    damage(tmp_path / 'checkpoints' / '3')
    with states.opened(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore(states.abstract(state))
        assert found is not None
        assert (found[0], int(found[1].step), found[2]) == (2, 5, 2)  # 3 + 2
        where = f'{tmp_path}/checkpoints: the checkpoint of step 3 is broken and not'
        assert where in caplog.text
        # The run comes there again.
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, state, 3)
    assert (tmp_path / 'checkpoints.broken' / '3').is_dir()
    with states.opened(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore(states.abstract(state))
        assert found is not None
        assert states.bits(found[1]) == states.bits(state)


def test_every_flipped_bit_of_the_values_is_noticed(tmp_path, caplog):
    state = states.make()
    with states.opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
    newest = tmp_path / 'checkpoints' / '2'
    (values,) = (newest / 'state').glob('d/*')
    whole = values.read_bytes()
    wanted = {'params': states.abstract(state).params}
    outcomes = set()
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        flip(values, at)
        caplog.clear()
        found = checkpoint.read(tmp_path / 'checkpoints', wanted)
        # What was read is right in any case; where it is of the newest, the bit was
        # of another array.
        assert states.bits(found.trees['params']) == states.bits(state.params)
        assert (found.step == 1) == ('step 2 is broken' in caplog.text)
        outcomes.add(found.step)
        values.write_bytes(whole)
    assert 1 in outcomes


def test_no_flipped_bit_of_any_file_is_restored(tmp_path):
    state = states.make()
    with states.opened(tmp_path) as checkpoints:
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
            with states.opened(copy) as checkpoints:
                found = checkpoints.restore(states.abstract(state))
            assert found is not None
            step, restored, position = found
            assert (int(restored.step), position) == (step, step)
            assert states.bits(restored)[1:] == states.bits(state)[1:]
            outcomes.add(step)
    assert outcomes == {1, 2}  # some bits mean nothing


def test_who_only_reads_names_a_checkpoint_that_cannot_be_listed(tmp_path):
    state = states.make()
    with states.opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, step)
    file = tmp_path / 'checkpoints' / '2' / '_CHECKPOINT_METADATA'
    file.write_text(file.read_text().replace('"metrics"', '"metricz"'))
    wanted = {'params': states.abstract(state).params}
    with pytest.raises(
        checkpoint.CheckpointError, match=r'of checkpoint 2 cannot be r'
    ):
        checkpoint.read(tmp_path / 'checkpoints', wanted)
    with states.opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
    assert checkpoint.read(tmp_path / 'checkpoints', wanted).step == 1


def test_where_all_are_broken_none_is_lost(tmp_path):
    with states.opened(tmp_path) as checkpoints:
        checkpoints.save(1, states.make(), {})
        checkpoints.save(2, states.make(), {})
    for step in (1, 2):
        truncate(tmp_path / 'checkpoints' / str(step))
    for _ in range(2):  # a second start does not begin anew
        with (
            states.opened(tmp_path) as checkpoints,
            pytest.raises(checkpoint.CheckpointError) as caught,
        ):
            checkpoints.restore(states.abstract(states.make()))
        assert 'every checkpoint is broken (1, 2). Put back a copy' in str(caught.value)
    wanted = {'params': states.abstract(states.make()).params}
    with pytest.raises(checkpoint.CheckpointError, match='that is whole can be read'):
        checkpoint.read(tmp_path / 'checkpoints', wanted)
    with pytest.raises(checkpoint.CheckpointError, match='of step 2 can be read'):
        checkpoint.read(tmp_path / 'checkpoints', wanted, 2)
