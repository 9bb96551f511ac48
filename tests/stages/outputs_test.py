"""Exported directories: complete, or not there."""

import json

import jax
import numpy as np
import pytest

from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.stages import outputs
from tests import tiny


@pytest.fixture
def tokenizer(chain):
    return tokenizer_lib.load(chain / 'sft' / 'model')


def test_a_language_model_comes_back_as_it_was(tokenizer, tmp_path):
    model, params = tiny.causal_lm(vocab_size=len(tokenizer))
    outputs.export_causal_lm(model, params, tokenizer, tmp_path / 'model')
    again, loaded = hf.load_causal_lm(tmp_path / 'model')
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    config = json.loads((tmp_path / 'model' / 'config.json').read_text())
    ids = {name: config[name] for name in config if name.endswith('_token_id')}
    assert ids == {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 3}
    same = tokenizer_lib.load(tmp_path / 'model')
    assert same.get_vocab() == tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ['model']


def test_a_score_model_comes_back_with_its_statistics(tokenizer, tmp_path):
    model, params = tiny.score_model(
        backbone={'vocab_size': len(tokenizer)}, score_type='cost'
    )
    normalizer = score.init_normalizer(1)
    normalizer = normalizer.replace(
        mean=normalizer.mean + 3, count=normalizer.count + 5
    )
    outputs.export_score_model(model, params, normalizer, tokenizer, tmp_path / 'model')
    again, loaded, statistics = hf.load_score_model(tmp_path / 'model')
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    jax.tree.map(np.testing.assert_array_equal, statistics, normalizer)


def test_an_export_that_fails_leaves_the_old_one(tokenizer, tmp_path, monkeypatch):
    model, params = tiny.causal_lm(vocab_size=len(tokenizer))
    outputs.export_causal_lm(model, params, tokenizer, tmp_path / 'model')
    before = (tmp_path / 'model' / 'model.safetensors').read_bytes()

    def full(directory):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, 'save_pretrained', full)
        _, other = tiny.causal_lm(seed=1, vocab_size=len(tokenizer))
        with pytest.raises(OSError, match='No space left'):
            outputs.export_causal_lm(model, other, tokenizer, tmp_path / 'model')
    assert (tmp_path / 'model' / 'model.safetensors').read_bytes() == before
    outputs.export_causal_lm(model, other, tokenizer, tmp_path / 'model')
    assert (tmp_path / 'model' / 'model.safetensors').read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ['model']
