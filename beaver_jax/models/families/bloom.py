"""BLOOM (arXiv 2211.05100): ALiBi, normed embeddings, q, k and v fused by heads."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'transformer.word_embeddings',
    'embed_norm': 'transformer.word_embeddings_layernorm',
    'layers/attention_norm': 'transformer.h.{}.input_layernorm',
    'layers/attention/q': 'transformer.h.{}.self_attention.query_key_value',
    'layers/attention/k': 'transformer.h.{}.self_attention.query_key_value',
    'layers/attention/v': 'transformer.h.{}.self_attention.query_key_value',
    'layers/attention/o': 'transformer.h.{}.self_attention.dense',
    'layers/mlp_norm': 'transformer.h.{}.post_attention_layernorm',
    'layers/mlp/up': 'transformer.h.{}.mlp.dense_h_to_4h',
    'layers/mlp/down': 'transformer.h.{}.mlp.dense_4h_to_h',
    'final_norm': 'transformer.ln_f',
    'lm_head': 'lm_head',
}
# It has no longest length of its own: what it was trained with.
MAX_POSITIONS = 2048


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    family.refuse(hf, apply_residual_connection_post_layernorm=False)
    width = hf.get('n_embed') or hf['hidden_size']
    heads = hf.get('n_head') or hf['num_attention_heads']
    return {
        'family': 'bloom',
        'vocab_size': hf['vocab_size'],
        'embed_dim': width,
        'num_layers': hf.get('n_layer') or hf['num_hidden_layers'],
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': width // heads,
        'mlp_dim': 4 * width,
        'max_positions': hf.get('seq_length', MAX_POSITIONS),
        'positions': 'alibi',
        'norm': 'layer',
        'norm_eps': hf.get('layer_norm_epsilon', 1e-5),
        'embed_norm': True,
        'activation': 'gelu_tanh',
        'gated': False,
        'qkv_bias': True,
        'o_bias': True,
        'mlp_bias': True,
        'tie_embeddings': bool(hf.get('tie_word_embeddings', True)),
        'init_std': hf.get('initializer_range', 0.02),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    return {
        'model_type': 'bloom',
        'vocab_size': config.vocab_size,
        'hidden_size': config.embed_dim,
        'n_layer': config.num_layers,
        'n_head': config.num_heads,
        'seq_length': config.max_positions,
        'layer_norm_epsilon': config.norm_eps,
        'apply_residual_connection_post_layernorm': False,
        'tie_word_embeddings': config.tie_embeddings,
        'initializer_range': config.init_std,
    }


FAMILY = family.Family(
    'bloom',
    'BloomForCausalLM',
    MODULES,
    from_hf,
    to_hf,
    prefix='transformer.',
    fused='heads',
)
