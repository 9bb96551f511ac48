import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.models import hf
from beaver_jax.models import saving
from beaver_jax.models import weights
from tests import tiny


@pytest.fixture
def tensors():
    return hf.export_names(tiny.config(), tiny.causal_lm()[1])


def test_a_slice_is_that_part_of_the_tensor(tmp_path, tensors):
    saving.save(tmp_path, {}, tensors)
    held = weights.Weights(tmp_path)
    name = 'model.layers.0.mlp.up_proj.weight'
    assert held.names() == set(tensors)
    assert held.shape(name) == (24, 16)
    np.testing.assert_array_equal(held.read(name), tensors[name])
    np.testing.assert_array_equal(
        held.read(name, (slice(3, 7), slice(None))), tensors[name][3:7]
    )


def test_missing_weights_are_named(tmp_path, tensors):
    with pytest.raises(weights.CheckpointError, match=r': no model\.safetensors\.$'):
        weights.Weights(tmp_path)
    saving.save(tmp_path, {}, tensors, shard_bytes=2000)
    lost = next(tmp_path.glob('model-00002-of-*'))
    lost.unlink()
    with pytest.raises(weights.CheckpointError, match=f'{tmp_path}: no {lost.name}'):
        weights.Weights(tmp_path)


def test_pickled_weights_are_refused_with_a_way_out(tmp_path):
    (tmp_path / 'pytorch_model.bin').write_bytes(b'pickle')
    with pytest.raises(
        weights.CheckpointError,
        match=r'\.bin\), which are never loaded.*save_pretrained',
    ):
        weights.Weights(tmp_path)


@pytest.mark.parametrize('size', [0, 4, 100, -1])
def test_a_truncated_file_is_named(tmp_path, tensors, size):
    saving.save(tmp_path, {}, tensors)
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        weights.CheckpointError, match=rf'{path}: cannot be read .*; copy it anew'
    ):
        weights.Weights(tmp_path)


@pytest.mark.parametrize('text', ['{', '[]', '{"weight_map": 3}', '{}'])
def test_a_broken_index_is_named(tmp_path, text):
    (tmp_path / weights.INDEX).write_text(text)
    with pytest.raises(weights.CheckpointError, match=r'index\.json: no JSON with a'):
        weights.Weights(tmp_path)


def test_stacked_parameters_are_named_by_layer():
    entries = [weights.Entry('a/kernel', ('x.0', 'x.1'), True, True)]
    kernel = jnp.arange(12.0).reshape(2, 2, 3)
    tensors = weights.named(entries, {'a': {'kernel': kernel}})
    np.testing.assert_array_equal(tensors['x.1'], [[6, 9], [7, 10], [8, 11]])
    assert tensors['x.1'].flags.c_contiguous  # safetensors writes the buffer as it is
