"""Adapters trained here, as `peft` applies them on PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax.models import hf
from beaver_jax.models import lora
from beaver_jax.models import peft as peft_lib
from tests.parity import families_test
from tests.parity import side_by_side

CONFIGS = {
    'plain': lora.LoraConfig(rank=3, alpha=6.0),
    'queries and keys, rank-stabilized': lora.LoraConfig(
        rank=4, alpha=4.0, targets='layers/attention/[qk]', rslora=True
    ),
}


def adapted(family, config, tmp_path):
    """Their base, and ours with random adapters that were saved."""
    settings = next(iter(families_test.SETTINGS[family].values()))
    theirs = families_test.torch_model(family, settings)
    theirs.save_pretrained(tmp_path / 'base')
    model, params = hf.load_causal_lm(tmp_path / 'base')
    random = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda x: jnp.asarray(0.2 * random.standard_normal(x.shape, np.float32)),
        lora.init(config, params, jax.random.key(0)),
    )
    peft_lib.save(
        tmp_path / 'adapter',
        model.config,
        config,
        peft_lib.tensors_of(model.config, adapters),
        base=str(tmp_path / 'base'),
    )
    return theirs, model, params, adapters


@pytest.mark.parametrize('family', families_test.SETTINGS)
@pytest.mark.parametrize('config', CONFIGS.values(), ids=CONFIGS)
def test_peft_gives_the_same_logits(family, config, tmp_path):
    theirs, model, params, adapters = adapted(family, config, tmp_path)
    tokens, mask = side_by_side.batch()
    plain = side_by_side.torch_logits(theirs, tokens, mask)
    with_adapter = peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter').eval()
    # The base takes the arguments: its wrapper has a signature of its own.
    base = with_adapter.get_base_model()
    expected = side_by_side.torch_logits(base, tokens, mask)
    whole = lora.overlay(config, params, adapters)
    found = side_by_side.jax_logits(model, whole, tokens, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)
    assert np.max(np.abs(expected - plain)[mask]) > 0.05

    merged = side_by_side.torch_logits(with_adapter.merge_and_unload(), tokens, mask)
    folded = lora.fold(config, params, adapters)
    found = side_by_side.jax_logits(model, folded, tokens, mask)
    np.testing.assert_allclose(found[mask], merged[mask], atol=1e-4)


@pytest.mark.parametrize('family', ['gpt2', 'gpt_neox', 'bloom'])
def test_fused_maps_are_one_adapter_of_the_rank_of_all(family, tmp_path):
    adapted(family, CONFIGS['plain'], tmp_path)
    settings = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())
    (fused,) = settings['rank_pattern']
    assert (settings['rank_pattern'][fused], settings['alpha_pattern'][fused]) == (
        9,
        18,
    )
    tensors = safetensors_numpy.load_file(
        tmp_path / 'adapter' / 'adapter_model.safetensors'
    )
    down, up = (
        next(tensors[name] for name in tensors if name.endswith(f'0.{fused}.{kind}'))
        for kind in ('lora_A.weight', 'lora_B.weight')
    )
    assert (down.shape, up.shape) == ((9, 32), (96, 9))
    # Of each output nothing but the ranks of its own map.
    np.testing.assert_array_equal(np.count_nonzero(up, axis=1), np.full(96, 3))


def test_an_adapter_of_what_is_not_fused(tmp_path):
    config = lora.LoraConfig(rank=2, targets='layers/(attention/o|mlp/up)')
    theirs, model, params, adapters = adapted('gpt2', config, tmp_path)
    tokens, mask = side_by_side.batch()
    with_adapter = peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter').eval()
    expected = side_by_side.torch_logits(with_adapter.get_base_model(), tokens, mask)
    whole = lora.overlay(config, params, adapters)
    found = side_by_side.jax_logits(model, whole, tokens, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)
