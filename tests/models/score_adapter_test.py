"""Score models written as adapters."""

import json

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax.models import hf
from beaver_jax.models import lora
from beaver_jax.models import score
from beaver_jax.models import score_adapter
from tests import tiny

SETTINGS = lora.LoraConfig(rank=2, alpha=6.0, targets='layers/(attention/q|mlp/up)')


def adapted(**backbone):
    """A score model, and adapters and a head of it."""
    model, params = tiny.score_model(
        score_type='cost', momentum=0.5, backbone=backbone or None
    )
    base = {'backbone': params['backbone']}
    learnt = lora.init(SETTINGS, base, jax.random.key(0))
    learnt = jax.tree.map(lambda x: x + 0.1, learnt)
    learnt |= {'score_head': params['score_head']}
    normalizer = score.init_normalizer(1)
    normalizer = normalizer.replace(
        mean=normalizer.mean + 3, count=normalizer.count + 5
    )
    return model, learnt, normalizer


# GPT-NeoX keeps q, k and v of each head together in one tensor.
@pytest.mark.parametrize('backbone', [{}, tiny.GPT_NEOX], ids=['llama', 'gpt_neox'])
def test_it_comes_back_as_it_was(backbone, tmp_path):
    model, learnt, normalizer = adapted(**backbone)
    score_adapter.save(
        tmp_path,
        model.config,
        SETTINGS,
        learnt,
        normalizer,
        base='somewhere',
        fingerprint='abc',
    )
    said = score_adapter.describe(tmp_path)
    assert (said.base, said.fingerprint, said.lora) == ('somewhere', 'abc', SETTINGS)
    config, found, statistics = score_adapter.load(tmp_path, model.config.backbone)
    assert config == model.config
    jax.tree.map(np.testing.assert_array_equal, found, learnt)
    jax.tree.map(np.testing.assert_array_equal, statistics, normalizer)


def test_peft_finds_a_classifier_in_it(tmp_path):
    model, learnt, normalizer = adapted()
    score_adapter.save(
        tmp_path, model.config, SETTINGS, learnt, normalizer, base='x', fingerprint='y'
    )
    said = json.loads((tmp_path / 'adapter_config.json').read_text())
    assert (said['task_type'], said['modules_to_save']) == ('SEQ_CLS', ['score'])
    held = safetensors_numpy.load_file(tmp_path / 'adapter_model.safetensors')
    np.testing.assert_array_equal(
        held['base_model.model.score.weight'], learnt['score_head']['kernel'].T
    )
    assert len(held) == 1 + 2 * 2 * 2  # A and B of two maps of two layers


def test_a_broken_description_is_refused(tmp_path):
    (tmp_path / 'score_config.json').write_text('{"base": "x"}')
    with pytest.raises(hf.CheckpointError, match=r'score_config.json: cannot be read'):
        score_adapter.describe(tmp_path)
