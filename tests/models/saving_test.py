import json

import numpy as np
import pytest

from beaver_jax.models import hf
from beaver_jax.models import saving
from beaver_jax.models import weights
from tests import tiny


@pytest.fixture
def tensors():
    return hf.export_names(tiny.config(), tiny.causal_lm()[1])


def test_large_weights_are_spread_over_files(tmp_path, tensors):
    # Embedding and head have 13·16·4 = 832 bytes, a matrix of the MLP 1536, so that
    # no file of at most 2000 bytes holds two of the latter.
    saving.save(tmp_path, {}, tensors, shard_bytes=2000)
    index = json.loads((tmp_path / weights.INDEX).read_text())
    assert index['weight_map'].keys() == tensors.keys()
    assert index['metadata']['total_size'] == sum(x.nbytes for x in tensors.values())
    files = sorted(set(index['weight_map'].values()))
    count = len(files)
    assert count > 6
    assert files == [
        f'model-{i:05d}-of-{count:05d}.safetensors' for i in range(1, count + 1)
    ]
    for file in files:
        names = [name for name, held in index['weight_map'].items() if held == file]
        assert sum(tensors[name].nbytes for name in names) <= 2000
    held = weights.Weights(tmp_path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(held.read(name), tensor)


def test_a_tensor_larger_than_a_file_has_one_of_its_own(tmp_path, tensors):
    saving.save(tmp_path, {}, tensors, shard_bytes=1)
    assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) == len(tensors)


def test_saving_anew_leaves_nothing_of_the_old(tmp_path, tensors):
    saving.save(tmp_path, {'a': 1}, tensors, shard_bytes=2000)
    (tmp_path / 'tokenizer.model').write_text('not ours')
    saving.save(tmp_path, {'b': 2}, tensors)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'config.json', weights.WEIGHTS, 'tokenizer.model'}
    assert json.loads((tmp_path / 'config.json').read_text()) == {'b': 2}


def test_a_directory_that_was_left_half_written_is_no_model(tmp_path, monkeypatch):
    model, params = tiny.causal_lm()
    hf.save_causal_lm(tmp_path, model.config, params)

    def killed(path, tensors):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, 'save_file', killed)
    with pytest.raises(KeyboardInterrupt):
        hf.save_causal_lm(tmp_path, model.config, params)
    with pytest.raises(hf.CheckpointError, match=r'no config\.json; not a model'):
        hf.load_causal_lm(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path, tensors):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file'):
        saving.save(tmp_path / 'file', {}, tensors)
    with pytest.raises(OSError, match=r'cannot be written .*; make room'):
        saving.save_file(tmp_path / 'missing' / 'model.safetensors', tensors)
