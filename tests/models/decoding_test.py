"""Reading in pieces with a cache, and with parameters that are unstacked for it."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import attention
from beaver_jax.models import transformer
from tests import tiny
from tests.models import decoders

# ---- Pieces -------------------------------------------------------------------------


def test_a_cache_has_a_key_and_a_value_per_layer_head_and_place():
    cache = attention.init_cache(tiny.config(), 5, 9)
    assert [x.shape for x in cache.keys + cache.values] == [(5, 2, 9, 6)] * 4
    assert cache.mask.shape == (5, 9)
    assert not np.any(cache.mask)


@pytest.mark.parametrize('changes', decoders.VARIANTS.values(), ids=decoders.VARIANTS)
def test_reading_in_pieces_with_a_cache_is_the_full_pass(changes):
    model, params = tiny.causal_lm(**changes)
    tokens = decoders.tokens_of(2, 7)
    mask = jnp.ones((2, 7), bool).at[0, :2].set(False)  # left padded
    full = decoders.logits_of(model, params, tokens, mask)
    pieces = decoders.decode(model, params, tokens, mask, (4, 1, 1, 1))
    np.testing.assert_allclose(pieces[mask], full[mask], atol=2e-5)


@pytest.mark.parametrize('sizes', [(7,), (1,) * 7, (3, 4)])
def test_the_pieces_may_have_any_length(sizes):
    model, params = tiny.causal_lm()
    tokens, mask = decoders.tokens_of(2, 7), jnp.ones((2, 7), bool).at[0, 0].set(False)
    full = decoders.logits_of(model, params, tokens, mask)
    pieces = decoders.decode(model, params, tokens, mask, sizes)
    np.testing.assert_allclose(pieces[mask], full[mask], atol=2e-5)


def test_the_last_of_a_prompt_is_read_into_a_cache_as_all_of_it():
    model, params = tiny.causal_lm()
    tokens, mask = decoders.tokens_of(2, 5), jnp.ones((2, 5), bool)
    cache = attention.init_cache(model.config, 2, 6)
    whole, expected = decoders.read(model, params, tokens, mask, cache)
    last, found = jax.jit(functools.partial(model.apply, wanted=slice(-1, None)))(
        {'params': params}, tokens, mask, cache
    )
    np.testing.assert_allclose(last, whole[:, -1:], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_mesh_changes_neither_logits_nor_cached_decoding():
    config = {'vocab_size': 16, 'head_dim': 8}
    model, params = tiny.causal_lm(**config)
    tokens = decoders.tokens_of(8, 6)
    mask = jnp.ones((8, 6), bool).at[0, :3].set(False)
    expected = decoders.logits_of(model, params, tokens, mask)
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(
            params, sharding.param_shardings(mesh, transformer.RULES, params)
        )
        rows = sharding.put_batch(mesh, (tokens, mask))
        logits = decoders.logits_of(model, placed, *rows)
        pieces = decoders.decode(model, placed, *rows, (4, 1, 1))
    np.testing.assert_allclose(np.asarray(logits), expected, atol=2e-5)
    np.testing.assert_allclose(np.asarray(pieces)[mask], expected[mask], atol=2e-5)


# ---- Unstacked parameters -----------------------------------------------------------


def test_unstacked_parameters_decode_alike():
    model, params = tiny.causal_lm(qkv_bias=True, o_bias=True)
    tokens, mask = decoders.tokens_of(2, 5), jnp.ones((2, 5), bool)
    unstacked = transformer.unstack(params, model.config)
    assert len(unstacked['layers']) == 2
    np.testing.assert_array_equal(
        decoders.decode(model, unstacked, tokens, mask, (3, 1, 1)),
        decoders.decode(model, params, tokens, mask, (3, 1, 1)),
    )


def test_unstacked_parameters_have_the_compute_type():
    model, params = tiny.causal_lm(dtype='bfloat16')
    unstacked = transformer.unstack(params, model.config)
    assert {leaf.dtype for leaf in jax.tree.leaves(unstacked)} == {
        jnp.dtype('bfloat16')
    }
    tokens, mask = decoders.tokens_of(2, 5), jnp.ones((2, 5), bool)
    np.testing.assert_array_equal(  # they are cast before each use anyway
        decoders.decode(model, unstacked, tokens, mask, (3, 1, 1)),
        decoders.decode(model, params, tokens, mask, (3, 1, 1)),
    )


def test_unstacked_parameters_are_whole_but_for_tensor():
    model, params = tiny.causal_lm(vocab_size=16)
    mesh = sharding.make_mesh(2, 2, 2)
    placed = jax.device_put(
        params, sharding.param_shardings(mesh, transformer.RULES, params)
    )
    with jax.set_mesh(mesh):
        found = jax.jit(transformer.unstack, static_argnums=1)(placed, model.config)
    for layer in found['layers']:
        assert layer['mlp']['up']['kernel'].sharding.spec == PartitionSpec(
            None, 'tensor'
        )
        assert layer['mlp']['down']['kernel'].sharding.spec == PartitionSpec('tensor')
        assert layer['attention']['q']['kernel'].sharding.spec == PartitionSpec(
            None, 'tensor'
        )
    assert found['embed']['embedding'].sharding.spec == PartitionSpec('tensor')
    assert found['lm_head']['kernel'].sharding.spec == PartitionSpec(None, 'tensor')
