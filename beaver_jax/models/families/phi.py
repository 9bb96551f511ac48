"""Phi 1, 1.5 and 2 (arXiv 2306.11644): parallel blocks under one norm, half rotated."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import llama

MODULES = {
    'embed': 'model.embed_tokens',
    'layers/attention_norm': 'model.layers.{}.input_layernorm',
    'layers/attention/q': 'model.layers.{}.self_attn.q_proj',
    'layers/attention/k': 'model.layers.{}.self_attn.k_proj',
    'layers/attention/v': 'model.layers.{}.self_attn.v_proj',
    'layers/attention/o': 'model.layers.{}.self_attn.dense',
    'layers/mlp/up': 'model.layers.{}.mlp.fc1',
    'layers/mlp/down': 'model.layers.{}.mlp.fc2',
    'final_norm': 'model.final_layernorm',
    'lm_head': 'lm_head',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    # A tied head would keep a bias that the decoder's tied head does not have.
    family.refuse(hf, qk_layernorm=False, tie_word_embeddings=False)
    fields = llama.sizes(hf)
    return fields | {
        **family.rope(hf, fields['head_dim'], default_partial=0.5),
        'norm': 'layer',
        'norm_eps': hf.get('layer_norm_eps', 1e-5),
        'residual': 'parallel_shared_norm',
        'activation': family.activation(hf.get('hidden_act', 'gelu_new')),
        'gated': False,
        'qkv_bias': True,
        'o_bias': True,
        'mlp_bias': True,
        'head_bias': True,
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    fields = llama.sizes_to_hf(config)
    for name in ('rms_norm_eps', 'head_dim'):
        del fields[name]
    return fields | {
        'hidden_act': family.activation_to_hf(config, tanh='gelu_new'),
        'layer_norm_eps': config.norm_eps,
        'partial_rotary_factor': config.rotated / config.head_dim,
    }


FAMILY = family.Family('phi', 'PhiForCausalLM', MODULES, from_hf, to_hf)
