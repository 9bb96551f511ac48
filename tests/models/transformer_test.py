"""Whole decoders: causality, padding, layers that are scanned or not, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.models import attention
from beaver_jax.models import modules
from beaver_jax.models import score
from beaver_jax.models import transformer
from tests import tiny
from tests.models import decoders


def test_fresh_weights_have_the_configured_spread():
    model, _ = tiny.causal_lm(embed_dim=64, mlp_dim=64, qkv_bias=True, o_bias=True)
    example = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    params = jax.jit(model.init)(jax.random.key(0), *example)['params']
    layers = params['layers']
    for kernel in (params['embed']['embedding'], layers['mlp']['up']['kernel']):
        # 832 and 2·64·64 draws: the spread is known to 1/√(2·832) = 2.5%.
        assert np.std(kernel) == pytest.approx(0.3, rel=0.1)
    assert np.all(layers['attention']['q']['bias'] == 0)
    assert np.all(layers['mlp_norm']['scale'] == 1)
    up = layers['mlp']['up']['kernel']
    assert not np.any(up[0] == up[1])  # each layer has its own


def test_a_window_hides_what_is_further_back():
    model, params = tiny.causal_lm(window=3, num_layers=1)
    tokens = decoders.tokens_of(1, 8)
    before = decoders.logits_of(model, params, tokens)
    after = decoders.logits_of(
        model, params, tokens.at[0, 2].set((tokens[0, 2] + 1) % 13)
    )
    changed = np.any(before[0] != after[0], axis=-1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [2, 3, 4])


def test_logits_do_not_see_later_tokens_and_do_see_earlier_ones():
    model, params = tiny.causal_lm()
    tokens = decoders.tokens_of(1, 8)
    before = decoders.logits_of(model, params, tokens)
    after = decoders.logits_of(
        model, params, tokens.at[0, 5].set((tokens[0, 5] + 1) % 13)
    )
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.any(before[0, 5:] != after[0, 5:], axis=-1))


@pytest.mark.parametrize('changes', decoders.VARIANTS.values(), ids=decoders.VARIANTS)
def test_padding_on_either_side_changes_no_logits(changes):
    model, params = tiny.causal_lm(**changes)
    tokens = decoders.tokens_of(1, 5)
    plain = decoders.logits_of(model, params, tokens)
    for left, right in ((4, 0), (0, 4), (1, 3)):
        padded = jnp.pad(tokens, ((0, 0), (left, right)), constant_values=7)
        mask = jnp.pad(jnp.ones((1, 5), bool), ((0, 0), (left, right)))
        logits = decoders.logits_of(model, params, padded, mask)
        np.testing.assert_allclose(logits[mask], plain[0], atol=2e-5)
        assert np.all(np.isfinite(logits))


def test_what_stands_in_padding_changes_nothing():
    model, params = tiny.causal_lm()
    tokens = decoders.tokens_of(2, 6)
    mask = jnp.ones((2, 6), bool).at[0, :2].set(False).at[1, 4:].set(False)
    a = decoders.logits_of(model, params, jnp.where(mask, tokens, 0), mask)
    b = decoders.logits_of(model, params, jnp.where(mask, tokens, 12), mask)
    np.testing.assert_array_equal(a[mask], b[mask])


def test_the_scan_is_the_layers_one_after_the_other():
    model, params = tiny.causal_lm()
    tokens, mask = decoders.tokens_of(2, 6), jnp.ones((2, 6), bool)
    x = params['embed']['embedding'][tokens]
    for i in range(2):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params['layers'])
        x = decoders.one_layer(model, layer, x, mask)
    norm = modules.RMSNorm(model.config.norm_eps, 'float32')
    x = norm.apply({'params': params['final_norm']}, x)
    np.testing.assert_allclose(
        x @ params['lm_head']['kernel'],
        decoders.logits_of(model, params, tokens),
        atol=2e-5,
    )


def test_rematerialization_changes_no_gradient():
    tokens = decoders.tokens_of(2, 6)
    _, params = tiny.causal_lm()

    def gradients(remat):
        model, _ = tiny.causal_lm(remat=remat)
        return jax.jit(
            jax.grad(lambda p: jnp.sum(jnp.sin(decoders.logits_of(model, p, tokens))))
        )(params)

    plain = gradients('none')
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(plain))
    for remat in ('full', 'dots'):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            plain,
            gradients(remat),
        )


def test_rematerialization_keeps_less():
    tokens = decoders.tokens_of(4, 32)
    _, params = tiny.causal_lm()

    def kept(remat):
        model, _ = tiny.causal_lm(remat=remat)
        _, backward = jax.vjp(lambda p: decoders.logits_of(model, p, tokens), params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept('full') < kept('dots') < kept('none')


def test_tied_logits_are_products_with_the_embedding():
    model, params = tiny.causal_lm(tie_embeddings=True)
    assert 'lm_head' not in params
    untied = transformer.CausalLM(
        dataclasses.replace(model.config, tie_embeddings=False)
    )
    head = {'lm_head': {'kernel': params['embed']['embedding'].T}}
    tokens = decoders.tokens_of(2, 4)
    np.testing.assert_allclose(
        decoders.logits_of(model, params, tokens),
        decoders.logits_of(untied, params | head, tokens),
        atol=1e-5,
    )


def test_grouped_heads_are_repeated_heads():
    model, params = tiny.causal_lm(num_kv_heads=2)
    full = transformer.CausalLM(dataclasses.replace(model.config, num_kv_heads=4))
    layers = params['layers'] | {'attention': dict(params['layers']['attention'])}
    for name in ('k', 'v'):  # each kv head serves two neighbouring query heads
        kernel = layers['attention'][name]['kernel'].reshape(2, 16, 2, 6)
        kernel = jnp.repeat(kernel, 2, axis=2).reshape(2, 16, 24)
        layers['attention'][name] = {'kernel': kernel}
    tokens = decoders.tokens_of(2, 5)
    np.testing.assert_allclose(
        decoders.logits_of(model, params, tokens),
        decoders.logits_of(full, params | {'layers': layers}, tokens),
        atol=1e-5,
    )


@pytest.mark.parametrize('layers', ['scanned', 'unrolled'])
@pytest.mark.parametrize('changes', decoders.VARIANTS.values(), ids=decoders.VARIANTS)
def test_wanted_places_are_a_part_of_all(changes, layers, monkeypatch):
    model, params = tiny.causal_lm(**changes)
    tokens = decoders.tokens_of(2, 7)
    mask = jnp.ones((2, 7), bool).at[0, :2].set(False).at[1, 6:].set(False)
    segments = jnp.array([[0, 0, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2, 0]])
    own = jnp.array([[3, 6], [5, 0]])

    def logits(params, wanted):
        rows = {'params': params}, tokens, mask, None, segments
        return model.apply(*rows, wanted=wanted)[0]

    monkeypatch.setattr(transformer, 'UNROLLED', 0)
    whole = jax.jit(functools.partial(logits, wanted=None))(params)
    monkeypatch.setattr(transformer, 'UNROLLED', 2 if layers == 'unrolled' else 0)
    parts = jax.jit(lambda p: [logits(p, x) for x in (slice(2, -1), own, None)])(params)
    each = np.stack([whole[0, own[0]], whole[1, own[1]]])
    for found, expected in zip(parts, (whole[:, 2:-1], each, whole), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize('remat', ['none', 'full', 'dots'])
def test_unrolled_layers_have_the_gradient_of_scanned_ones(remat, monkeypatch):
    model, params = tiny.causal_lm(remat=remat, window=3, windowed=(True, False))
    tokens = decoders.tokens_of(2, 7)

    def gradients(unrolled):
        monkeypatch.setattr(transformer, 'UNROLLED', unrolled)

        def loss(params):  # a function of its own for each, to be traced anew
            wanted = slice(3, 6)
            logits, _ = model.apply(
                {'params': params}, tokens, jnp.ones((2, 7), bool), wanted=wanted
            )
            return jnp.sum(jnp.sin(logits))

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        gradients(2),
        gradients(0),
    )


def test_a_pass_that_is_asked_for_ends_computes_the_last_layer_there_alone():
    rows, length = 4, 64
    model, params = tiny.score_model(backbone={'num_layers': 1, 'mlp_dim': 256})
    tokens, mask = decoders.tokens_of(rows, length), jnp.ones((rows, length), bool)

    def flops(wanted):
        apply = functools.partial(model.apply, wanted=wanted)
        compiled = jax.jit(apply).lower({'params': params}, tokens, mask).compile()
        return compiled.cost_analysis()['flops']

    # Of every token but a row's last: q and o of 16 × 24, the MLP's three 16 × 256.
    saved = 2 * rows * (length - 1) * (2 * 16 * 24 + 3 * 16 * 256)
    assert flops(None) - flops(score.ends(mask)) > saved


def test_a_bfloat16_model_computes_in_16_bits_and_gives_float32_logits():
    _, params = tiny.causal_lm()
    model, _ = tiny.causal_lm(dtype='bfloat16')
    tokens = decoders.tokens_of(2, 6)
    logits = decoders.logits_of(model, params, tokens)
    assert logits.dtype == jnp.float32
    wide = decoders.logits_of(transformer.CausalLM(tiny.config()), params, tokens)
    error = np.max(np.abs(logits - wide)) / np.max(np.abs(wide))
    assert 1e-4 < error < 0.1  # bfloat16 has 8 bits: 2⁻⁸ = 0.004 a rounding
    cache = attention.init_cache(model.config, 2, 6)
    assert cache.keys[0].dtype == jnp.bfloat16
    _, cache = model.apply({'params': params}, tokens, jnp.ones((2, 6), bool), cache)
    assert cache.keys[0].dtype == jnp.bfloat16


def test_sizes_that_do_not_fit_are_refused():
    for changes, message in (
        ({'num_kv_heads': 3}, 'num_kv_heads=3 does not divide num_heads=4'),
        ({'head_dim': 5}, 'head_dim=5 is odd'),
        ({'num_layers': 0}, 'num_layers=0; must be at least 1'),
        ({'remat': 'some'}, "remat='some'; known: .*'full'"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.config(**changes)
