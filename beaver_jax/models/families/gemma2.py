"""Gemma 2 (arXiv 2408.00118): normed outputs, capped logits, windows in turns."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import gemma
from beaver_jax.models.families import llama

MODULES = llama.MODULES | {
    'layers/attention_post_norm': 'model.layers.{}.post_attention_layernorm',
    'layers/mlp_norm': 'model.layers.{}.pre_feedforward_layernorm',
    'layers/mlp_post_norm': 'model.layers.{}.post_feedforward_layernorm',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    hf = {'num_key_value_heads': 4, **hf}
    every_other = tuple(i % 2 == 0 for i in range(hf['num_hidden_layers']))
    window = hf.get('sliding_window', 4096)
    name = hf.get('hidden_activation', 'gelu_pytorch_tanh')
    return gemma.sizes(hf) | {
        'activation': family.activation(name),
        'post_norms': True,
        'attention_scale': float(hf.get('query_pre_attn_scalar', 256) ** -0.5),
        'attention_softcap': hf.get('attn_logit_softcapping', 50.0),
        'logit_softcap': hf.get('final_logit_softcapping', 30.0),
        'window': window,
        'windowed': (family.layer_types(hf) or every_other) if window else (),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    assert config.attention_scale is not None  # from_hf sets it
    return gemma.to_hf(config) | {
        'query_pre_attn_scalar': round(config.attention_scale**-2),
        'attn_logit_softcapping': config.attention_softcap,
        'final_logit_softcapping': config.logit_softcap,
        'sliding_window': config.window,
        'layer_types': family.layer_types_to_hf(config),
    }


FAMILY = family.Family('gemma2', 'Gemma2ForCausalLM', MODULES, from_hf, to_hf)
