"""Slices of tensors in files, whatever the size of the blocks that are read."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax.models import tensors


def saved(path, **arrays):
    safetensors_numpy.save_file(arrays, path, metadata={'format': 'pt'})
    return tensors.of(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'model.safetensors'


@pytest.mark.parametrize('block', [1, 40, 100, 1 << 20])
@pytest.mark.parametrize(
    'index',
    [
        (),
        (slice(2, 5),),
        (slice(None), slice(1, 4)),
        (slice(3, 7), slice(2, None), slice(0, 1)),
        (slice(4, 4),),
    ],
)
def test_a_slice_in_blocks(block, index, path, monkeypatch):
    monkeypatch.setattr(tensors, 'BLOCK', block)
    array = np.random.default_rng(0).standard_normal((7, 5, 2)).astype('float32')
    held = saved(path, other=np.arange(3), array=array)['array']
    assert held.shape == (7, 5, 2)
    np.testing.assert_array_equal(held.read(index), array[index])
    rounded = array[index].astype(jnp.bfloat16)
    found = held.read(index, 'bfloat16')
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, rounded)


@pytest.mark.parametrize('dtype', tensors.KINDS.values())
def test_every_type(dtype, path):
    array = np.array([[0, 1], [1, 0]]).astype(jnp.dtype(dtype))
    held = saved(path, array=array)['array']
    found = held.read()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_single_number(path):
    held = saved(path, one=np.array(3, 'float32'), none=np.zeros((0, 4), 'float32'))
    assert held['one'].read().shape == ()
    assert float(held['one'].read()) == 3
    assert held['none'].read().shape == (0, 4)


def test_a_type_that_is_not_known(path):
    held = saved(path, array=np.zeros(4))['array']._replace(kind='F4')
    with pytest.raises(tensors.CheckpointError, match='array is of type F4; known: B'):
        held.read()


def test_a_file_that_became_shorter(path):
    held = saved(path, array=np.zeros(40))['array']
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(tensors.CheckpointError, match='array is cut short; copy it'):
        held.read()
