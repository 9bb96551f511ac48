"""GPT-J: parallel blocks under one norm, rotary pairs side by side."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family

MODULES = {
    'embed': 'transformer.wte',
    'layers/attention_norm': 'transformer.h.{}.ln_1',
    'layers/attention/q': 'transformer.h.{}.attn.q_proj',
    'layers/attention/k': 'transformer.h.{}.attn.k_proj',
    'layers/attention/v': 'transformer.h.{}.attn.v_proj',
    'layers/attention/o': 'transformer.h.{}.attn.out_proj',
    'layers/mlp/up': 'transformer.h.{}.mlp.fc_in',
    'layers/mlp/down': 'transformer.h.{}.mlp.fc_out',
    'final_norm': 'transformer.ln_f',
    'lm_head': 'lm_head',
}


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    # A tied head would keep a bias that the decoder's tied head does not have.
    family.refuse(hf, tie_word_embeddings=False)
    hf = family.renamed(
        hf,
        n_embd='hidden_size',
        n_layer='num_hidden_layers',
        n_head='num_attention_heads',
        n_positions='max_position_embeddings',
    )
    width, heads = hf['n_embd'], hf['n_head']
    return {
        'family': 'gptj',
        'vocab_size': hf['vocab_size'],
        'embed_dim': width,
        'num_layers': hf['n_layer'],
        'num_heads': heads,
        'num_kv_heads': heads,
        'head_dim': width // heads,
        'mlp_dim': hf.get('n_inner') or 4 * width,
        'max_positions': hf.get('n_positions', 2048),
        'rotary_dim': hf.get('rotary_dim', 64) or None,  # null: the whole head
        'rope_interleaved': True,
        'norm': 'layer',
        'norm_eps': hf.get('layer_norm_epsilon', 1e-5),
        'residual': 'parallel_shared_norm',
        'activation': family.activation(hf.get('activation_function', 'gelu_new')),
        'gated': False,
        'mlp_bias': True,
        'head_bias': True,
        'init_std': hf.get('initializer_range', 0.02),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    return {
        'model_type': 'gptj',
        'vocab_size': config.vocab_size,
        'n_embd': config.embed_dim,
        'n_layer': config.num_layers,
        'n_head': config.num_heads,
        'n_inner': config.mlp_dim,
        'n_positions': config.max_positions,
        'rotary_dim': config.rotated,
        'layer_norm_epsilon': config.norm_eps,
        'activation_function': family.activation_to_hf(config, tanh='gelu_new'),
        'tie_word_embeddings': config.tie_embeddings,
        'initializer_range': config.init_std,
    }


FAMILY = family.Family(
    'gptj', 'GPTJForCausalLM', MODULES, from_hf, to_hf, prefix='transformer.'
)
