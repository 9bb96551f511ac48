"""LLaMA 1, 2, 3 (arXiv 2302.13971, 2307.09288, 2407.21783), and what its kin share."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'model.embed_tokens',
    'layers/attention_norm': 'model.layers.{}.input_layernorm',
    'layers/attention/q': 'model.layers.{}.self_attn.q_proj',
    'layers/attention/k': 'model.layers.{}.self_attn.k_proj',
    'layers/attention/v': 'model.layers.{}.self_attn.v_proj',
    'layers/attention/o': 'model.layers.{}.self_attn.o_proj',
    'layers/mlp_norm': 'model.layers.{}.post_attention_layernorm',
    'layers/mlp/gate': 'model.layers.{}.mlp.gate_proj',
    'layers/mlp/up': 'model.layers.{}.mlp.up_proj',
    'layers/mlp/down': 'model.layers.{}.mlp.down_proj',
    'final_norm': 'model.norm',
    'lm_head': 'lm_head',
}


def sizes(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that LLaMA and its kin name alike."""
    heads = hf['num_attention_heads']
    head_dim = hf.get('head_dim') or hf['hidden_size'] // heads
    return {
        'family': hf['model_type'],
        'vocab_size': hf['vocab_size'],
        'embed_dim': hf['hidden_size'],
        'num_layers': hf['num_hidden_layers'],
        'num_heads': heads,
        'num_kv_heads': hf.get('num_key_value_heads') or heads,
        'head_dim': head_dim,
        'mlp_dim': hf['intermediate_size'],
        'max_positions': hf.get('max_position_embeddings', 2048),
        'norm_eps': hf.get('rms_norm_eps', 1e-6),
        'tie_embeddings': bool(hf.get('tie_word_embeddings', False)),
        'init_std': hf.get('initializer_range', 0.02),
        **family.rope(hf, head_dim),
    }


def sizes_to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """The inverse of `sizes`."""
    return {
        'model_type': config.family,
        'vocab_size': config.vocab_size,
        'hidden_size': config.embed_dim,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'num_key_value_heads': config.num_kv_heads,
        'head_dim': config.head_dim,
        'intermediate_size': config.mlp_dim,
        'max_position_embeddings': config.max_positions,
        'rms_norm_eps': config.norm_eps,
        'tie_word_embeddings': config.tie_embeddings,
        'initializer_range': config.init_std,
        'hidden_act': family.activation_to_hf(config),
        **family.rope_to_hf(config),
    }


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    bias = bool(hf.get('attention_bias', False))
    return sizes(hf) | {
        'activation': family.activation(hf.get('hidden_act', 'silu')),
        'qkv_bias': bias,
        'o_bias': bias,
        'mlp_bias': bool(hf.get('mlp_bias', False)),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    biases = {'attention_bias': config.qkv_bias, 'mlp_bias': config.mlp_bias}
    return sizes_to_hf(config) | biases


FAMILY = family.Family('llama', 'LlamaForCausalLM', MODULES, from_hf, to_hf)
