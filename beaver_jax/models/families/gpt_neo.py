"""GPT-Neo: GPT-2 with unscaled attention that is local in every other layer."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'transformer.wte',
    'position_embed': 'transformer.wpe',
    'layers/attention_norm': 'transformer.h.{}.ln_1',
    'layers/attention/q': 'transformer.h.{}.attn.attention.q_proj',
    'layers/attention/k': 'transformer.h.{}.attn.attention.k_proj',
    'layers/attention/v': 'transformer.h.{}.attn.attention.v_proj',
    'layers/attention/o': 'transformer.h.{}.attn.attention.out_proj',
    'layers/mlp_norm': 'transformer.h.{}.ln_2',
    'layers/mlp/up': 'transformer.h.{}.mlp.c_fc',
    'layers/mlp/down': 'transformer.h.{}.mlp.c_proj',
    'final_norm': 'transformer.ln_f',
    'lm_head': 'lm_head',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    width, heads = hf['hidden_size'], hf['num_heads']
    pattern = hf.get('attention_types') or [[['global', 'local'], 12]]
    kinds = [kind for group, times in pattern for kind in group * times]
    return {
        'family': 'gpt_neo',
        'vocab_size': hf['vocab_size'],
        'embed_dim': width,
        'num_layers': hf['num_layers'],
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': width // heads,
        'mlp_dim': hf.get('intermediate_size') or 4 * width,
        'max_positions': hf.get('max_position_embeddings', 2048),
        'positions': 'learned',
        'norm': 'layer',
        'norm_eps': hf.get('layer_norm_epsilon', 1e-5),
        'activation': family.activation(hf.get('activation_function', 'gelu_new')),
        'gated': False,
        'o_bias': True,
        'mlp_bias': True,
        'attention_scale': 1.0,
        'window': hf.get('window_size', 256),
        'windowed': tuple(kind == 'local' for kind in kinds),
        'tie_embeddings': bool(hf.get('tie_word_embeddings', True)),
        'init_std': hf.get('initializer_range', 0.02),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    names = ('global', 'local')
    return {
        'model_type': 'gpt_neo',
        'vocab_size': config.vocab_size,
        'hidden_size': config.embed_dim,
        'num_layers': config.num_layers,
        'num_heads': config.num_heads,
        'intermediate_size': config.mlp_dim,
        'max_position_embeddings': config.max_positions,
        'layer_norm_epsilon': config.norm_eps,
        'activation_function': family.activation_to_hf(config, tanh='gelu_new'),
        'window_size': config.window,
        'attention_types': [[[names[w]], 1] for w in config.layer_windows()],
        'attention_layers': [names[w] for w in config.layer_windows()],
        'tie_word_embeddings': config.tie_embeddings,
        'initializer_range': config.init_std,
    }


FAMILY = family.Family(
    'gpt_neo', 'GPTNeoForCausalLM', MODULES, from_hf, to_hf, prefix='transformer.'
)
