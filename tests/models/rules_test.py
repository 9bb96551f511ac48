"""Every parameter has a rule of sharding, and 7B models fit as planned."""

import dataclasses

import jax
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.models import transformer
from tests import tiny
from tests.models import decoders

QWEN2_7B = config_lib.TransformerConfig(
    vocab_size=152_064,
    embed_dim=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=18_944,
    qkv_bias=True,
)


@pytest.mark.parametrize(
    'mesh', [(8, 1, 1), (2, 4, 1), (1, 4, 2), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
)
@pytest.mark.parametrize(
    'config',
    [
        decoders.LLAMA_7B,
        dataclasses.replace(
            decoders.LLAMA_7B,
            tie_embeddings=True,
            qkv_bias=True,
            o_bias=True,
            mlp_bias=True,
        ),
        QWEN2_7B,
    ],
    ids=['llama', 'llama tied with biases', 'qwen2'],
)
def test_every_parameter_of_a_7b_model_has_a_rule(mesh, config):
    abstract = hf.abstract_params(transformer.CausalLM(config))
    shardings = sharding.param_shardings(
        sharding.make_mesh(*mesh), transformer.RULES, abstract
    )
    for leaf, placed in zip(
        jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True
    ):
        assert len(placed.spec) == len(leaf.shape)


def test_a_7b_model_has_as_many_parameters_and_bytes_a_device_as_planned():
    abstract = hf.abstract_params(transformer.CausalLM(decoders.LLAMA_7B))
    # Embedding and head 2·32000·4096; a layer has q, k, v, o 4·4096², three of
    # 4096·11008, two norms of 4096; a final norm of 4096: 6,738,415,616.
    count = 2 * 32_000 * 4096 + 4096
    count += 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096)
    assert count == 6_738_415_616
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == count
    mesh = sharding.make_mesh(1, 4, 2)
    placed = sharding.param_shardings(mesh, transformer.RULES, abstract)
    held = sum(
        int(np.prod(s.shard_shape(leaf.shape)))
        for leaf, s in zip(
            jax.tree.leaves(abstract), jax.tree.leaves(placed), strict=True
        )
    )
    # All but the norms, 65·4096, is spread over eight devices.
    norms = 65 * 4096
    assert held == (count - norms) // 8 + norms


@pytest.mark.parametrize('changes', decoders.VARIANTS.values(), ids=decoders.VARIANTS)
def test_every_parameter_of_a_variant_has_a_rule(changes):
    model = transformer.CausalLM(tiny.config(**changes))
    abstract = hf.abstract_params(model)
    specs = sharding.match_rules(transformer.RULES, abstract)
    assert jax.tree.map(lambda leaf: leaf.ndim, abstract) == jax.tree.map(
        len, specs, is_leaf=lambda spec: isinstance(spec, PartitionSpec)
    )


def test_rules_cover_score_models():
    config = config_lib.ScoreConfig(backbone=decoders.LLAMA_7B, score_dim=2)
    abstract = hf.abstract_params(score.ScoreModel(config))
    specs = sharding.match_rules(transformer.RULES, abstract)
    assert specs['score_head']['kernel'] == PartitionSpec('fsdp', None)
    assert specs['score_head']['bias'] == PartitionSpec(None)
    layers = specs['backbone']['layers']
    assert layers['mlp']['down']['kernel'] == PartitionSpec(None, 'tensor', 'fsdp')
