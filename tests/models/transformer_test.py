import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import attention
from beaver_jax.models import blocks
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import modules
from beaver_jax.models import positions
from beaver_jax.models import score
from beaver_jax.models import transformer
from tests import tiny

LLAMA_7B = config_lib.TransformerConfig(
    vocab_size=32_000,
    embed_dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    mlp_dim=11_008,
)
QWEN2_7B = config_lib.TransformerConfig(
    vocab_size=152_064,
    embed_dim=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=18_944,
    qkv_bias=True,
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


def test_rms_norm_by_hand():
    norm = modules.RMSNorm(eps=0.5, dtype='float32')
    # The mean square of (1, 2) is 2.5, plus 0.5 is 3; scales are 2 and 3:
    # 2·1/√3 = 1.1547005, 3·2/√3 = 3.4641016.
    out = norm.apply(
        {'params': {'scale': jnp.array([2.0, 3.0])}}, jnp.array([[1.0, 2.0]])
    )
    np.testing.assert_allclose(out, [[1.1547005, 3.4641016]], rtol=1e-6)


def test_scales_may_stand_beside_an_offset():
    norm = modules.RMSNorm(eps=0.5, dtype='float32', offset=1.0)
    # As above with scales 1 + 1 and 1 + 2.
    out = norm.apply(
        {'params': {'scale': jnp.array([1.0, 2.0])}}, jnp.array([[1.0, 2.0]])
    )
    np.testing.assert_allclose(out, [[1.1547005, 3.4641016]], rtol=1e-6)
    fresh = norm.init(jax.random.key(0), jnp.ones((1, 2)))['params']['scale']
    np.testing.assert_array_equal(fresh, [0, 0])


def test_layer_norm_by_hand():
    norm = modules.LayerNorm(eps=0.75, dtype='float32')
    params = {'scale': jnp.array([2.0, 3.0]), 'bias': jnp.array([0.5, -0.5])}
    # Mean 2, variance 1, plus 0.75 is 1.75: ∓1/√1.75 = ∓0.7559289;
    # 2·(-0.7559289) + 0.5 = -1.0118579, 3·0.7559289 - 0.5 = 1.7677867.
    out = norm.apply({'params': params}, jnp.array([[1.0, 3.0]]))
    np.testing.assert_allclose(out, [[-1.0118579, 1.7677867]], rtol=1e-6)


def test_a_window_hides_what_is_further_back():
    model, params = tiny.causal_lm(window=3, num_layers=1)
    tokens = tokens_of(1, 8)
    before = logits_of(model, params, tokens)
    after = logits_of(model, params, tokens.at[0, 2].set((tokens[0, 2] + 1) % 13))
    changed = np.any(before[0] != after[0], axis=-1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [2, 3, 4])


def test_mlp_by_hand():
    config = tiny.config(embed_dim=1, mlp_dim=1)
    kernels = {'gate': 2.0, 'up': 3.0, 'down': 5.0}
    params = {name: {'kernel': jnp.full((1, 1), k)} for name, k in kernels.items()}
    out = blocks.Mlp(config).apply({'params': params}, jnp.full((1, 1, 1), 0.5))
    # gate 2·0.5 = 1, silu(1) = 1/(1 + e⁻¹) = 0.7310586; up 3·0.5 = 1.5;
    # 5·(0.7310586·1.5) = 5.4829394.
    np.testing.assert_allclose(out, [[[5.4829394]]], rtol=1e-6)


def test_a_token_depends_on_itself_and_the_past_only():
    model, params = tiny.causal_lm()
    layer = jax.tree.map(lambda leaf: leaf[0], params['layers'])
    hidden = jax.random.normal(jax.random.key(1), (1, 6, 16))
    mask = jnp.ones((1, 6), bool)
    jacobian = jax.jit(  # [1, T, D, 1, T, D]
        jax.jacobian(lambda hidden: one_layer(model, layer, hidden, mask))
    )(hidden)
    influence = jnp.sum(jnp.abs(jacobian), axis=(0, 2, 3, 5))  # [T out, T in]
    np.testing.assert_array_equal(influence > 0, np.tri(6, dtype=bool))


def test_logits_do_not_see_later_tokens_and_do_see_earlier_ones():
    model, params = tiny.causal_lm()
    tokens = tokens_of(1, 8)
    before = logits_of(model, params, tokens)
    after = logits_of(model, params, tokens.at[0, 5].set((tokens[0, 5] + 1) % 13))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.any(before[0, 5:] != after[0, 5:], axis=-1))


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_reading_in_pieces_with_a_cache_is_the_full_pass(changes):
    model, params = tiny.causal_lm(**changes)
    tokens = tokens_of(2, 7)
    mask = jnp.ones((2, 7), bool).at[0, :2].set(False)  # left padded
    full = logits_of(model, params, tokens, mask)
    pieces = decode(model, params, tokens, mask, (4, 1, 1, 1))
    np.testing.assert_allclose(pieces[mask], full[mask], atol=2e-5)


@pytest.mark.parametrize('sizes', [(7,), (1,) * 7, (3, 4)])
def test_the_pieces_may_have_any_length(sizes):
    model, params = tiny.causal_lm()
    tokens, mask = tokens_of(2, 7), jnp.ones((2, 7), bool).at[0, 0].set(False)
    full = logits_of(model, params, tokens, mask)
    pieces = decode(model, params, tokens, mask, sizes)
    np.testing.assert_allclose(pieces[mask], full[mask], atol=2e-5)


def test_unstacked_parameters_decode_alike():
    model, params = tiny.causal_lm(qkv_bias=True, o_bias=True)
    tokens, mask = tokens_of(2, 5), jnp.ones((2, 5), bool)
    unstacked = transformer.unstack(params, model.config)
    assert len(unstacked['layers']) == 2
    np.testing.assert_array_equal(
        decode(model, unstacked, tokens, mask, (3, 1, 1)),
        decode(model, params, tokens, mask, (3, 1, 1)),
    )


def test_unstacked_parameters_have_the_compute_type():
    model, params = tiny.causal_lm(dtype='bfloat16')
    unstacked = transformer.unstack(params, model.config)
    assert {leaf.dtype for leaf in jax.tree.leaves(unstacked)} == {
        jnp.dtype('bfloat16')
    }
    tokens, mask = tokens_of(2, 5), jnp.ones((2, 5), bool)
    np.testing.assert_array_equal(  # they are cast before each use anyway
        decode(model, unstacked, tokens, mask, (3, 1, 1)),
        decode(model, params, tokens, mask, (3, 1, 1)),
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


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_padding_on_either_side_changes_no_logits(changes):
    model, params = tiny.causal_lm(**changes)
    tokens = tokens_of(1, 5)
    plain = logits_of(model, params, tokens)
    for left, right in ((4, 0), (0, 4), (1, 3)):
        padded = jnp.pad(tokens, ((0, 0), (left, right)), constant_values=7)
        mask = jnp.pad(jnp.ones((1, 5), bool), ((0, 0), (left, right)))
        logits = logits_of(model, params, padded, mask)
        np.testing.assert_allclose(logits[mask], plain[0], atol=2e-5)
        assert np.all(np.isfinite(logits))


def test_what_stands_in_padding_changes_nothing():
    model, params = tiny.causal_lm()
    tokens = tokens_of(2, 6)
    mask = jnp.ones((2, 6), bool).at[0, :2].set(False).at[1, 4:].set(False)
    a = logits_of(model, params, jnp.where(mask, tokens, 0), mask)
    b = logits_of(model, params, jnp.where(mask, tokens, 12), mask)
    np.testing.assert_array_equal(a[mask], b[mask])


def test_the_scan_is_the_layers_one_after_the_other():
    model, params = tiny.causal_lm()
    tokens, mask = tokens_of(2, 6), jnp.ones((2, 6), bool)
    x = params['embed']['embedding'][tokens]
    for i in range(2):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params['layers'])
        x = one_layer(model, layer, x, mask)
    norm = modules.RMSNorm(model.config.norm_eps, 'float32')
    x = norm.apply({'params': params['final_norm']}, x)
    np.testing.assert_allclose(
        x @ params['lm_head']['kernel'], logits_of(model, params, tokens), atol=2e-5
    )


def test_rematerialization_changes_no_gradient():
    tokens = tokens_of(2, 6)
    _, params = tiny.causal_lm()

    def gradients(remat):
        model, _ = tiny.causal_lm(remat=remat)
        return jax.jit(
            jax.grad(lambda p: jnp.sum(jnp.sin(logits_of(model, p, tokens))))
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
    tokens = tokens_of(4, 32)
    _, params = tiny.causal_lm()

    def kept(remat):
        model, _ = tiny.causal_lm(remat=remat)
        _, backward = jax.vjp(lambda p: logits_of(model, p, tokens), params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept('full') < kept('dots') < kept('none')


def test_tied_logits_are_products_with_the_embedding():
    model, params = tiny.causal_lm(tie_embeddings=True)
    assert 'lm_head' not in params
    untied = transformer.CausalLM(
        dataclasses.replace(model.config, tie_embeddings=False)
    )
    head = {'lm_head': {'kernel': params['embed']['embedding'].T}}
    tokens = tokens_of(2, 4)
    np.testing.assert_allclose(
        logits_of(model, params, tokens),
        logits_of(untied, params | head, tokens),
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
    tokens = tokens_of(2, 5)
    np.testing.assert_allclose(
        logits_of(model, params, tokens),
        logits_of(full, params | {'layers': layers}, tokens),
        atol=1e-5,
    )


@pytest.mark.parametrize('layers', ['scanned', 'unrolled'])
@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_wanted_places_are_a_part_of_all(changes, layers, monkeypatch):
    model, params = tiny.causal_lm(**changes)
    tokens = tokens_of(2, 7)
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


def test_the_last_of_a_prompt_is_read_into_a_cache_as_all_of_it():
    model, params = tiny.causal_lm()
    tokens, mask = tokens_of(2, 5), jnp.ones((2, 5), bool)
    cache = attention.init_cache(model.config, 2, 6)
    whole, expected = read(model, params, tokens, mask, cache)
    last, found = jax.jit(functools.partial(model.apply, wanted=slice(-1, None)))(
        {'params': params}, tokens, mask, cache
    )
    np.testing.assert_allclose(last, whole[:, -1:], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('remat', ['none', 'full', 'dots'])
def test_unrolled_layers_have_the_gradient_of_scanned_ones(remat, monkeypatch):
    model, params = tiny.causal_lm(remat=remat, window=3, windowed=(True, False))
    tokens = tokens_of(2, 7)

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
    tokens, mask = tokens_of(rows, length), jnp.ones((rows, length), bool)

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
    tokens = tokens_of(2, 6)
    logits = logits_of(model, params, tokens)
    assert logits.dtype == jnp.float32
    wide = logits_of(transformer.CausalLM(tiny.config()), params, tokens)
    error = np.max(np.abs(logits - wide)) / np.max(np.abs(wide))
    assert 1e-4 < error < 0.1  # bfloat16 has 8 bits: 2⁻⁸ = 0.004 a rounding
    cache = attention.init_cache(model.config, 2, 6)
    assert cache.keys[0].dtype == jnp.bfloat16
    _, cache = model.apply({'params': params}, tokens, jnp.ones((2, 6), bool), cache)
    assert cache.keys[0].dtype == jnp.bfloat16


def test_a_cache_has_a_key_and_a_value_per_layer_head_and_place():
    cache = attention.init_cache(tiny.config(), 5, 9)
    assert [x.shape for x in cache.keys + cache.values] == [(5, 2, 9, 6)] * 4
    assert cache.mask.shape == (5, 9)
    assert not np.any(cache.mask)


@pytest.mark.parametrize(
    'mesh', [(8, 1, 1), (2, 4, 1), (1, 4, 2), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
)
@pytest.mark.parametrize(
    'config',
    [
        LLAMA_7B,
        dataclasses.replace(
            LLAMA_7B, tie_embeddings=True, qkv_bias=True, o_bias=True, mlp_bias=True
        ),
        QWEN2_7B,
    ],
    ids=['llama', 'llama tied with biases', 'qwen2'],
)
def test_every_parameter_of_a_7b_model_has_a_rule(mesh, config):
    abstract = hf.abstract_params(transformer.CausalLM(config))
    shardings = sharding.param_shardings(
        sharding.make_mesh(*mesh), transformer.RULES, abstract
    )
    for leaf, placed in zip(
        jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True
    ):
        assert len(placed.spec) == len(leaf.shape)


def test_a_7b_model_has_as_many_parameters_and_bytes_a_device_as_planned():
    abstract = hf.abstract_params(transformer.CausalLM(LLAMA_7B))
    # Embedding and head 2·32000·4096; a layer has q, k, v, o 4·4096², three of
    # 4096·11008, two norms of 4096; a final norm of 4096: 6,738,415,616.
    count = 2 * 32_000 * 4096 + 4096
    count += 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096)
    assert count == 6_738_415_616
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == count
    mesh = sharding.make_mesh(1, 4, 2)
    placed = sharding.param_shardings(mesh, transformer.RULES, abstract)
    held = sum(
        int(np.prod(s.shard_shape(leaf.shape)))
        for leaf, s in zip(
            jax.tree.leaves(abstract), jax.tree.leaves(placed), strict=True
        )
    )
    # All but the norms, 65·4096, is spread over eight devices.
    norms = 65 * 4096
    assert held == (count - norms) // 8 + norms


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_every_parameter_of_a_variant_has_a_rule(changes):
    model = transformer.CausalLM(tiny.config(**changes))
    abstract = hf.abstract_params(model)
    specs = sharding.match_rules(transformer.RULES, abstract)
    assert jax.tree.map(lambda leaf: leaf.ndim, abstract) == jax.tree.map(
        len, specs, is_leaf=lambda spec: isinstance(spec, PartitionSpec)
    )


def test_rules_cover_score_models():
    config = config_lib.ScoreConfig(backbone=LLAMA_7B, score_dim=2)
    abstract = hf.abstract_params(score.ScoreModel(config))
    specs = sharding.match_rules(transformer.RULES, abstract)
    assert specs['score_head']['kernel'] == PartitionSpec('fsdp', None)
    assert specs['score_head']['bias'] == PartitionSpec(None)
    layers = specs['backbone']['layers']
    assert layers['mlp']['down']['kernel'] == PartitionSpec(None, 'tensor', 'fsdp')


def test_a_mesh_changes_neither_logits_nor_cached_decoding():
    config = {'vocab_size': 16, 'head_dim': 8}
    model, params = tiny.causal_lm(**config)
    tokens = tokens_of(8, 6)
    mask = jnp.ones((8, 6), bool).at[0, :3].set(False)
    expected = logits_of(model, params, tokens, mask)
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(
            params, sharding.param_shardings(mesh, transformer.RULES, params)
        )
        rows = sharding.put_batch(mesh, (tokens, mask))
        logits = logits_of(model, placed, *rows)
        pieces = decode(model, placed, *rows, (4, 1, 1))
    np.testing.assert_allclose(np.asarray(logits), expected, atol=2e-5)
    np.testing.assert_allclose(np.asarray(pieces)[mask], expected[mask], atol=2e-5)


def test_sizes_that_do_not_fit_are_refused():
    for changes, message in (
        ({'num_kv_heads': 3}, 'num_kv_heads=3 does not divide num_heads=4'),
        ({'head_dim': 5}, 'head_dim=5 is odd'),
        ({'num_layers': 0}, 'num_layers=0; must be at least 1'),
        ({'remat': 'some'}, "remat='some'; known: .*'full'"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.config(**changes)
