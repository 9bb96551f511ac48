"""7B models on eight devices: every leaf has a rule, and the bytes are as planned."""

import functools

import jax
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import config as model_config
from beaver_jax.models import hf
from beaver_jax.models import hf_config
from beaver_jax.models import lora
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.stages import footprint
from beaver_jax.stages import roles

LLAMA = {
    'model_type': 'llama',
    'vocab_size': 32_000,
    'hidden_size': 4096,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'num_key_value_heads': 32,
    'intermediate_size': 11_008,
    'max_position_embeddings': 2048,
    'rms_norm_eps': 1e-6,
    'tie_word_embeddings': False,
}
QWEN2 = LLAMA | {
    'model_type': 'qwen2',
    'vocab_size': 152_064,
    'hidden_size': 3584,
    'num_hidden_layers': 28,
    'num_attention_heads': 28,
    'num_key_value_heads': 4,
    'intermediate_size': 18_944,
}
# Embedding and projection, a layer's seven maps and two norms, Qwen2's biases.
LLAMA_SIZE = 2 * 32_000 * 4096 + 4096
LLAMA_SIZE += 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096)
QWEN2_SIZE = 2 * 152_064 * 3584 + 3584
QWEN2_SIZE += 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18_944 + 2 * 3584)
QWEN2_SIZE += 28 * (3584 + 2 * 512)


@pytest.mark.parametrize('mesh', [(8, 1, 1), (2, 4, 1), (1, 4, 2)])
@pytest.mark.parametrize('said, size', [(LLAMA, LLAMA_SIZE), (QWEN2, QWEN2_SIZE)])
def test_every_leaf_of_a_7b_model_has_a_rule(said, size, mesh):
    config = hf_config.decoder(said)
    devices = sharding.make_mesh(*mesh)
    policy = hf.abstract_params(transformer.CausalLM(config))
    scorer = hf.abstract_params(
        score.ScoreModel(model_config.ScoreConfig(backbone=config))
    )
    init = functools.partial(lora.init, lora.LoraConfig(rank=16), policy)
    adapters = jax.eval_shape(init, jax.random.key(0))
    for tree in (policy, scorer, adapters):
        shardings = sharding.param_shardings(devices, transformer.RULES, tree)
        placed = roles.placed(devices, tree)
        assert jax.tree.map(lambda x: x.sharding, placed) == shardings
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(policy)) == size
    # All but norms and biases is cut over fsdp and tensor.
    cut = footprint.size(roles.placed(devices, policy))
    assert cut == pytest.approx(4 * size / (mesh[1] * mesh[2]), rel=1e-3)
