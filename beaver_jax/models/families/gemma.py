"""Gemma (arXiv 2403.08295): LLaMA with scaled embeddings, and scales around 1."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import llama


def sizes(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that Gemma and Gemma 2 share."""
    # The configuration's own defaults, which config.json may leave out.
    hf = {'head_dim': 256, 'tie_word_embeddings': True, **hf}
    bias = bool(hf.get('attention_bias', False))
    return llama.sizes(hf) | {
        'norm_offset': 1.0,
        'embed_scale': float(hf['hidden_size'] ** 0.5),
        'qkv_bias': bias,
        'o_bias': bias,
    }


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    name = hf.get('hidden_activation') or hf.get('hidden_act') or 'gelu'
    # The first releases say gelu and mean its tanh form.
    activation = 'gelu_tanh' if name == 'gelu' else family.activation(name)
    return sizes(hf) | {'activation': activation}


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    fields = llama.sizes_to_hf(config) | {'attention_bias': config.qkv_bias}
    return fields | {'hidden_activation': fields['hidden_act']}


FAMILY = family.Family('gemma', 'GemmaForCausalLM', llama.MODULES, from_hf, to_hf)
