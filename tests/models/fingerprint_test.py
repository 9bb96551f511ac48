"""Fingerprints: equal for equal weights, another for whatever training changes."""

import numpy as np
import pytest

from beaver_jax.models import fingerprint
from beaver_jax.models import saving
from beaver_jax.models import weights


def write(directory, tensors, **changes):
    saving.save(directory, {'model_type': 'llama'}, tensors, **changes)
    return fingerprint.of(directory)


@pytest.fixture
def tensors():
    random = np.random.default_rng(0)
    return {
        'large': random.standard_normal((64, 1024), np.float32),  # 256 KiB
        'small': random.standard_normal(8, np.float32),
    }


def test_equal_weights_however_they_are_spread(tensors, tmp_path):
    found = write(tmp_path / 'a', tensors)
    assert len(found) == 64
    assert write(tmp_path / 'b', tensors) == found
    backwards = dict(reversed(tensors.items()))
    assert write(tmp_path / 'c', backwards, shard_bytes=1) == found
    assert len(list((tmp_path / 'c').glob('*.safetensors'))) == 2
    # config.json is not a part of it: adding the id of a token is no new model.
    (tmp_path / 'a' / 'config.json').write_text('{}')
    assert fingerprint.of(tmp_path / 'a') == found


@pytest.mark.parametrize(
    'change',
    [
        lambda t: t | {'small': t['small'] + np.eye(8, dtype='float32')[5]},
        lambda t: t | {'large': t['large'] * np.float32(1.001)},
        lambda t: t | {'large': t['large'].reshape(1024, 64)},
        lambda t: t | {'large': t['large'].astype('float16')},
        lambda t: t | {'more': t['small']},
        lambda t: {'large': t['large']},
        lambda t: {'larger': t['large'], 'small': t['small']},
        # Both ends of a large tensor are looked at.
        lambda t: t | {'large': t['large'] + _at(0)},
        lambda t: t | {'large': t['large'] + _at(-1)},
    ],
)
def test_other_weights(change, tensors, tmp_path):
    before = write(tmp_path / 'a', tensors)
    assert write(tmp_path / 'b', change(tensors)) != before


def _at(row):
    ones = np.zeros((64, 1024), np.float32)
    ones[row, -1] = 1
    return ones


def test_a_large_tensor_is_read_in_blocks():
    # 262,144 bytes: 4 blocks of 4096, the last from 258,048 on.
    assert fingerprint._blocks(262_144) == {
        0: 4096,
        86_016: 4096,
        172_032: 4096,
        258_048: 4096,
    }
    assert fingerprint._blocks(16_384) == {0: 16_384}


@pytest.mark.parametrize('size', [0, 4, 100, -1])
def test_a_truncated_file_is_named(size, tensors, tmp_path):
    write(tmp_path, tensors)
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        weights.CheckpointError, match=rf'{path}: cannot be read .*; copy it anew'
    ):
        fingerprint.of(tmp_path)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(weights.CheckpointError, match=r'no model\.safetensors'):
        fingerprint.of(tmp_path)
