"""GPT-NeoX and Pythia (arXiv 2204.06745): parallel blocks; q, k, v fused by heads."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'gpt_neox.embed_in',
    'layers/attention_norm': 'gpt_neox.layers.{}.input_layernorm',
    'layers/attention/q': 'gpt_neox.layers.{}.attention.query_key_value',
    'layers/attention/k': 'gpt_neox.layers.{}.attention.query_key_value',
    'layers/attention/v': 'gpt_neox.layers.{}.attention.query_key_value',
    'layers/attention/o': 'gpt_neox.layers.{}.attention.dense',
    'layers/mlp_norm': 'gpt_neox.layers.{}.post_attention_layernorm',
    'layers/mlp/up': 'gpt_neox.layers.{}.mlp.dense_h_to_4h',
    'layers/mlp/down': 'gpt_neox.layers.{}.mlp.dense_4h_to_h',
    'final_norm': 'gpt_neox.final_layer_norm',
    'lm_head': 'embed_out',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    width, heads = hf['hidden_size'], hf['num_attention_heads']
    bias = bool(hf.get('attention_bias', True))
    parallel = hf.get('use_parallel_residual', True)
    rope = family.rope(
        hf,
        width // heads,
        theta='rotary_emb_base',
        partial='rotary_pct',
        default_partial=0.25,
    )
    return {
        'family': 'gpt_neox',
        'vocab_size': hf['vocab_size'],
        'embed_dim': width,
        'num_layers': hf['num_hidden_layers'],
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': width // heads,
        'mlp_dim': hf['intermediate_size'],
        'max_positions': hf.get('max_position_embeddings', 2048),
        **rope,
        'norm': 'layer',
        'norm_eps': hf.get('layer_norm_eps', 1e-5),
        'residual': 'parallel' if parallel else 'sequential',
        'activation': family.activation(hf.get('hidden_act', 'gelu')),
        'gated': False,
        'qkv_bias': bias,
        'o_bias': bias,
        'mlp_bias': True,
        'tie_embeddings': bool(hf.get('tie_word_embeddings', False)),
        'init_std': hf.get('initializer_range', 0.02),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    rope = family.rope_to_hf(config)
    return {
        'model_type': 'gpt_neox',
        'vocab_size': config.vocab_size,
        'hidden_size': config.embed_dim,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'intermediate_size': config.mlp_dim,
        'max_position_embeddings': config.max_positions,
        'rotary_emb_base': rope.pop('rope_theta'),
        'rotary_pct': config.rotated / config.head_dim,
        **rope,
        'layer_norm_eps': config.norm_eps,
        'use_parallel_residual': config.residual == 'parallel',
        'hidden_act': family.activation_to_hf(config, tanh='gelu_new'),
        'attention_bias': config.qkv_bias,
        'tie_word_embeddings': config.tie_embeddings,
        'initializer_range': config.init_std,
    }


FAMILY = family.Family(
    'gpt_neox',
    'GPTNeoXForCausalLM',
    MODULES,
    from_hf,
    to_hf,
    prefix='gpt_neox.',
    fused='heads',
)
