"""OPT (arXiv 2205.01068): learned positions from row 2 on; 350M norms last."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'model.decoder.embed_tokens',
    'position_embed': 'model.decoder.embed_positions',
    'embed_in': 'model.decoder.project_in',
    'embed_out': 'model.decoder.project_out',
    'layers/attention_norm': 'model.decoder.layers.{}.self_attn_layer_norm',
    'layers/attention/q': 'model.decoder.layers.{}.self_attn.q_proj',
    'layers/attention/k': 'model.decoder.layers.{}.self_attn.k_proj',
    'layers/attention/v': 'model.decoder.layers.{}.self_attn.v_proj',
    'layers/attention/o': 'model.decoder.layers.{}.self_attn.out_proj',
    'layers/mlp_norm': 'model.decoder.layers.{}.final_layer_norm',
    'layers/mlp/up': 'model.decoder.layers.{}.fc1',
    'layers/mlp/down': 'model.decoder.layers.{}.fc2',
    'final_norm': 'model.decoder.final_layer_norm',
    'lm_head': 'lm_head',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    family.refuse(hf, layer_norm_elementwise_affine=True)
    width, heads = hf['hidden_size'], hf['num_attention_heads']
    embed_width = hf.get('word_embed_proj_dim') or width
    norm_first = bool(hf.get('do_layer_norm_before', True))
    bias = bool(hf.get('enable_bias', True))
    return {
        'family': 'opt',
        'vocab_size': hf['vocab_size'],
        'embed_dim': width,
        'num_layers': hf['num_hidden_layers'],
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': width // heads,
        'mlp_dim': hf['ffn_dim'],
        'max_positions': hf.get('max_position_embeddings', 2048),
        'positions': 'learned',
        'position_offset': 2,
        'norm': 'layer',
        'norm_eps': 1e-5,
        'norm_first': norm_first,
        'final_norm': norm_first and not hf.get('_remove_final_layer_norm', False),
        'activation': family.activation(hf.get('activation_function', 'relu')),
        'gated': False,
        'qkv_bias': bias,
        'o_bias': bias,
        'mlp_bias': bias,
        'tie_embeddings': bool(hf.get('tie_word_embeddings', True)),
        'embed_width': None if embed_width == width else embed_width,
        'init_std': hf.get('init_std', 0.02),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    return {
        'model_type': 'opt',
        'vocab_size': config.vocab_size,
        'hidden_size': config.embed_dim,
        'word_embed_proj_dim': config.hidden_width,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'ffn_dim': config.mlp_dim,
        'max_position_embeddings': config.max_positions,
        'do_layer_norm_before': config.norm_first,
        '_remove_final_layer_norm': config.norm_first and not config.final_norm,
        'activation_function': family.activation_to_hf(config, tanh='gelu_new'),
        'enable_bias': config.qkv_bias,
        'tie_word_embeddings': config.tie_embeddings,
        'init_std': config.init_std,
    }


FAMILY = family.Family('opt', 'OPTForCausalLM', MODULES, from_hf, to_hf)
