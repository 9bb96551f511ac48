"""Decoders of every kind, and functions to read sequences with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.models import attention
from beaver_jax.models import blocks
from beaver_jax.models import config as config_lib
from beaver_jax.models import positions

LLAMA_7B = config_lib.TransformerConfig(
    vocab_size=32_000,
    embed_dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    mlp_dim=11_008,
)
VARIANTS = {
    'plain': {},
    'other': {
        'tie_embeddings': True,
        'qkv_bias': True,
        'o_bias': True,
        'mlp_bias': True,
        'num_kv_heads': 1,
        'rope_theta': 500.0,
    },
    'window in the first layer': {'window': 3, 'windowed': (True, False)},
    'normed outputs, caps': {
        'norm_offset': 1.0,
        'post_norms': True,
        'qk_norm': True,
        'embed_scale': 4.0,
        'attention_scale': 0.3,
        'attention_softcap': 0.5,
        'logit_softcap': 2.0,
    },
    'learned positions, norms last, projected': {
        'positions': 'learned',
        'position_offset': 2,
        'max_positions': 12,
        'norm': 'layer',
        'norm_first': False,
        'final_norm': False,
        'gated': False,
        'activation': 'relu',
        'embed_width': 10,
        'tie_embeddings': True,
    },
    'alibi': {
        'positions': 'alibi',
        'embed_norm': True,
        'norm': 'layer',
        'gated': False,
        'activation': 'gelu_tanh',
    },
    'parallel': {'residual': 'parallel', 'rotary_dim': 4, 'norm': 'layer'},
    'parallel under one norm, interleaved': {
        'residual': 'parallel_shared_norm',
        'rope_interleaved': True,
        'head_bias': True,
        'activation': 'gelu',
        'window': 4,
    },
}


def tokens_of(rows, length, seed=5):
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, 13)


@functools.partial(jax.jit, static_argnames=('model', 'start', 'stop'))
def logits_of(model, params, tokens, mask=None, *, start=0, stop=None):
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    wanted = slice(start, stop)
    return model.apply({'params': params}, tokens, mask, wanted=wanted)[0]


@functools.partial(jax.jit, static_argnames='model')
def read(model, params, tokens, mask, cache):
    return model.apply({'params': params}, tokens, mask, cache)


@functools.partial(jax.jit, static_argnames='model')
def one_layer(model, layer, hidden, mask):
    places = positions.positions_from_mask(mask)
    context = attention.Context(
        angles=positions.rotations(places, model.config),
        mask=attention.attention_mask(mask, attention.ages(0, *2 * mask.shape[1:])),
        near=None,
        bias=None,
    )
    block = blocks.Block(model.config)
    return block.apply({'params': layer}, hidden, context)[0]


def decode(model, params, tokens, mask, sizes):
    """Logits of a sequence that is read in pieces of these sizes."""
    cache = attention.init_cache(model.config, tokens.shape[0], sum(sizes))
    pieces, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        logits, cache = read(model, params, tokens[:, part], mask[:, part], cache)
        pieces.append(logits)
        start += size
    assert int(cache.index) == 0  # after the last place comes the first
    np.testing.assert_array_equal(cache.mask, mask)
    return jnp.concatenate(pieces, axis=1)
