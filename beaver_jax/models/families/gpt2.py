"""GPT-2: learned positions; kernels stored [in, out]; q, k and v in one tensor."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'transformer.wte',
    'position_embed': 'transformer.wpe',
    'layers/attention_norm': 'transformer.h.{}.ln_1',
    'layers/attention/q': 'transformer.h.{}.attn.c_attn',
    'layers/attention/k': 'transformer.h.{}.attn.c_attn',
    'layers/attention/v': 'transformer.h.{}.attn.c_attn',
    'layers/attention/o': 'transformer.h.{}.attn.c_proj',
    'layers/mlp_norm': 'transformer.h.{}.ln_2',
    'layers/mlp/up': 'transformer.h.{}.mlp.c_fc',
    'layers/mlp/down': 'transformer.h.{}.mlp.c_proj',
    'final_norm': 'transformer.ln_f',
    'lm_head': 'lm_head',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    family.refuse(
        hf,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    hf = family.renamed(
        hf,
        n_embd='hidden_size',
        n_layer='num_hidden_layers',
        n_head='num_attention_heads',
        n_positions='max_position_embeddings',
    )
    width, heads = hf['n_embd'], hf['n_head']
    return {
        'family': 'gpt2',
        'vocab_size': hf['vocab_size'],
        'embed_dim': width,
        'num_layers': hf['n_layer'],
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': width // heads,
        'mlp_dim': hf.get('n_inner') or 4 * width,
        'max_positions': hf.get('n_positions', 1024),
        'positions': 'learned',
        'norm': 'layer',
        'norm_eps': hf.get('layer_norm_epsilon', 1e-5),
        'activation': family.activation(hf.get('activation_function', 'gelu_new')),
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
        'model_type': 'gpt2',
        'vocab_size': config.vocab_size,
        'n_embd': config.embed_dim,
        'n_layer': config.num_layers,
        'n_head': config.num_heads,
        'n_inner': config.mlp_dim,
        'n_positions': config.max_positions,
        'n_ctx': config.max_positions,
        'layer_norm_epsilon': config.norm_eps,
        'activation_function': family.activation_to_hf(config, tanh='gelu_new'),
        'tie_word_embeddings': config.tie_embeddings,
        'initializer_range': config.init_std,
    }


FAMILY = family.Family(
    'gpt2',
    'GPT2LMHeadModel',
    MODULES,
    from_hf,
    to_hf,
    prefix='transformer.',
    conv1d=True,
)
