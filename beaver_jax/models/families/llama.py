"""LLaMA (arXiv 2302.13971 and its successors without RoPE scaling)."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib

ARCHITECTURE = 'LlamaForCausalLM'
SCORE_ARCHITECTURE = 'LlamaForScore'

# (parameter of the decoder, Hugging Face name, transposed)
NAMES = (
    ('embed/embedding', 'model.embed_tokens.weight', False),
    ('layers/attention_norm/scale', 'model.layers.{}.input_layernorm.weight', False),
    ('layers/attention/q/kernel', 'model.layers.{}.self_attn.q_proj.weight', True),
    ('layers/attention/q/bias', 'model.layers.{}.self_attn.q_proj.bias', False),
    ('layers/attention/k/kernel', 'model.layers.{}.self_attn.k_proj.weight', True),
    ('layers/attention/k/bias', 'model.layers.{}.self_attn.k_proj.bias', False),
    ('layers/attention/v/kernel', 'model.layers.{}.self_attn.v_proj.weight', True),
    ('layers/attention/v/bias', 'model.layers.{}.self_attn.v_proj.bias', False),
    ('layers/attention/o/kernel', 'model.layers.{}.self_attn.o_proj.weight', True),
    ('layers/attention/o/bias', 'model.layers.{}.self_attn.o_proj.bias', False),
    ('layers/mlp_norm/scale', 'model.layers.{}.post_attention_layernorm.weight', False),
    ('layers/mlp/gate/kernel', 'model.layers.{}.mlp.gate_proj.weight', True),
    ('layers/mlp/gate/bias', 'model.layers.{}.mlp.gate_proj.bias', False),
    ('layers/mlp/up/kernel', 'model.layers.{}.mlp.up_proj.weight', True),
    ('layers/mlp/up/bias', 'model.layers.{}.mlp.up_proj.bias', False),
    ('layers/mlp/down/kernel', 'model.layers.{}.mlp.down_proj.weight', True),
    ('layers/mlp/down/bias', 'model.layers.{}.mlp.down_proj.bias', False),
    ('final_norm/scale', 'model.norm.weight', False),
    ('lm_head/kernel', 'lm_head.weight', True),
)


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Translates config.json into the fields of a TransformerConfig.

    Raises:
      ValueError: A setting that the decoder does not have; KeyError: a missing one.
    """
    rope = hf.get('rope_parameters') or hf.get('rope_scaling') or {}
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind != 'default':
        raise ValueError(f'RoPE scaling {kind!r} is not supported; only the default.')
    if hf.get('hidden_act', 'silu') != 'silu':
        raise ValueError(f'hidden_act={hf["hidden_act"]!r}; only silu is supported.')
    heads = hf['num_attention_heads']
    return {
        'vocab_size': hf['vocab_size'],
        'embed_dim': hf['hidden_size'],
        'num_layers': hf['num_hidden_layers'],
        'num_heads': heads,
        'num_kv_heads': hf.get('num_key_value_heads') or heads,
        'head_dim': hf.get('head_dim') or hf['hidden_size'] // heads,
        'mlp_dim': hf['intermediate_size'],
        'max_positions': hf.get('max_position_embeddings', 2048),
        'rope_theta': float(rope.get('rope_theta') or hf.get('rope_theta') or 10_000.0),
        'norm_eps': hf.get('rms_norm_eps', 1e-6),
        'tie_embeddings': bool(hf.get('tie_word_embeddings', False)),
        'attention_bias': bool(hf.get('attention_bias', False)),
        'mlp_bias': bool(hf.get('mlp_bias', False)),
        'init_std': hf.get('initializer_range', 0.02),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """Translates a TransformerConfig into config.json's fields."""
    return {
        'model_type': 'llama',
        'vocab_size': config.vocab_size,
        'hidden_size': config.embed_dim,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'num_key_value_heads': config.num_kv_heads,
        'head_dim': config.head_dim,
        'intermediate_size': config.mlp_dim,
        'max_position_embeddings': config.max_positions,
        'rope_theta': config.rope_theta,
        'rms_norm_eps': config.norm_eps,
        'tie_word_embeddings': config.tie_embeddings,
        'attention_bias': config.attention_bias,
        'mlp_bias': config.mlp_bias,
        'initializer_range': config.init_std,
        'hidden_act': 'silu',
    }
