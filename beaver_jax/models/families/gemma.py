"""Gemma (arXiv 2403.08295): LLaMA with scaled embeddings, and scales around 1."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import llama


def sizes(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that Gemma and Gemma 2 share."""
    # The configuration's own defaults, which config.json may leave out.
    defaults = {'head_dim': 256, 'tie_word_embeddings': True}
    hf = {**defaults, 'max_position_embeddings': 8192, **hf}
    if hf.get('use_bidirectional_attention'):
        raise ValueError('use_bidirectional_attention=true is not supported.')
    bias = bool(hf.get('attention_bias', False))
    return llama.sizes(hf) | {
        'norm_offset': 1.0,
        'embed_scale': float(hf['hidden_size'] ** 0.5),
        'qkv_bias': bias,
        'o_bias': bias,
    }


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    hf = {'num_key_value_heads': 16, **hf}
    # The first releases say hidden_act=gelu and mean its tanh form.
    old = {'gelu': 'gelu_pytorch_tanh'}
    name = hf.get('hidden_act') or 'gelu'
    name = hf.get('hidden_activation') or old.get(name, name)
    return sizes(hf) | {'activation': family.activation(name)}


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    fields = llama.sizes_to_hf(config) | {'attention_bias': config.qkv_bias}
    return fields | {'hidden_activation': fields['hidden_act']}


FAMILY = family.Family('gemma', 'GemmaForCausalLM', llama.MODULES, from_hf, to_hf)
