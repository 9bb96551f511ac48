"""Qwen3 (arXiv 2505.09388): Qwen2 without its biases; normed queries and keys."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import llama
from beaver_jax.models.families import qwen2

MODULES = llama.MODULES | {
    'layers/attention/q_norm': 'model.layers.{}.self_attn.q_norm',
    'layers/attention/k_norm': 'model.layers.{}.self_attn.k_norm',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    # The configuration's default is 128, whatever hidden_size is.
    defaults = {'num_key_value_heads': 32, 'max_position_embeddings': 32_768}
    hf = {'head_dim': 128, **defaults, **hf}
    bias = bool(hf.get('attention_bias', False))
    return (
        llama.sizes(hf)
        | qwen2.windows(hf)
        | {
            'activation': family.activation(hf.get('hidden_act', 'silu')),
            'qk_norm': True,
            'qkv_bias': bias,
            'o_bias': bias,
        }
    )


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    bias = {'attention_bias': config.qkv_bias}
    return llama.sizes_to_hf(config) | qwen2.windows_to_hf(config) | bias


FAMILY = family.Family('qwen3', 'Qwen3ForCausalLM', MODULES, from_hf, to_hf)
