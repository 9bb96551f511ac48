"""Low-rank adapters: their arithmetic, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import hf
from beaver_jax.models import lora
from beaver_jax.models import modules
from beaver_jax.models import score
from beaver_jax.models import transformer
from tests import tiny

EVERYTHING = lora.LoraConfig(rank=2, alpha=6.0)


def tokens():
    return jnp.arange(12).reshape(2, 6), jnp.ones((2, 6), bool).at[0, :2].set(False)


def logits(model, params):
    return jax.jit(model.apply)({'params': params}, *tokens())[0]


def shaken(adapters, seed=0):
    """Adapters in which B is not zero any more."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * random.standard_normal(x.shape, np.float32)),
        adapters,
    )


def test_a_linear_map_by_hand():
    linear = modules.Linear(1, False, 'float32', 1.0)
    base = {'kernel': jnp.array([[2.0], [3.0]])}
    learning = {'lora_a': jnp.array([[1.0], [-1.0]]), 'lora_b': jnp.array([[0.5]])}
    x = jnp.array([[5.0, 1.0]])
    # x·W = 5·2 + 1·3 = 13; x·A = 5 - 1 = 4, ·B = 2; the scale is 6/1.
    config = lora.LoraConfig(rank=1, alpha=6.0)
    params = lora.overlay(config, base, learning)
    assert float(linear.apply({'params': params}, x)[0, 0]) == 25.0
    # W + 6·A·B = (2 + 3, 3 - 3)
    folded = lora.fold(config, base, learning)
    np.testing.assert_array_equal(folded['kernel'], [[5.0], [0.0]])


def test_the_scale():
    assert lora.LoraConfig(rank=4, alpha=8.0).scale == 2.0
    assert lora.LoraConfig(rank=4, alpha=8.0, rslora=True).scale == 4.0  # 8/√4


def test_fresh_adapters_change_nothing_and_stand_beside_every_target():
    model, params = tiny.causal_lm()
    adapters = lora.init(EVERYTHING, params, jax.random.key(0))
    layers = adapters['layers']
    assert set(layers['attention']) == {'q', 'k', 'v', 'o'}
    assert set(layers['mlp']) == {'gate', 'up', 'down'}
    # [layers, 16, 2] and [layers, 2, 24]: four heads of six.
    assert layers['attention']['q']['lora_a'].shape == (2, 16, 2)
    assert layers['attention']['q']['lora_b'].shape == (2, 2, 24)
    a = np.asarray(layers['mlp']['down']['lora_a'])
    assert 0.8 / np.sqrt(24) < np.max(np.abs(a)) <= 1 / np.sqrt(24)
    whole = lora.overlay(EVERYTHING, params, adapters)
    np.testing.assert_array_equal(logits(model, whole), logits(model, params))


def test_a_folded_model_is_the_adapted_one():
    model, params = tiny.causal_lm(qkv_bias=True)
    adapters = shaken(lora.init(EVERYTHING, params, jax.random.key(0)))
    adapted = lora.Adapted(model, EVERYTHING, params)
    found = jax.jit(adapted.apply)({'params': adapters}, *tokens())[0]
    folded = lora.fold(EVERYTHING, params, adapters)
    np.testing.assert_allclose(logits(model, folded), found, atol=1e-4)
    assert np.max(np.abs(found - logits(model, params))) > 0.1
    assert jax.tree.structure(folded) == jax.tree.structure(params)


def test_a_bfloat16_base_is_folded_in_float32():
    base = {'kernel': jnp.ones((1, 1), jnp.bfloat16)}
    learning = {'lora_a': jnp.full((1, 1), 0.25), 'lora_b': jnp.full((1, 1), 0.1)}
    folded = lora.fold(lora.LoraConfig(rank=1, alpha=1.0), base, learning)
    # In 16 bits 1 + 0.025 would be 1 + 3·2⁻⁷.
    assert folded['kernel'].dtype == jnp.float32
    assert float(folded['kernel'][0, 0]) == pytest.approx(1.025)


def test_only_adapters_and_the_head_get_gradients():
    model, params = tiny.score_model()
    base = {'backbone': params['backbone']}
    learning = lora.init(EVERYTHING, base, jax.random.key(0))
    learning = shaken(learning) | {'score_head': params['score_head']}
    adapted = lora.Adapted(model, EVERYTHING, base)

    @jax.jit
    @jax.grad
    def gradients(learning):
        scores = adapted.apply({'params': learning}, *tokens())
        return jnp.sum(score.end_scores(scores, tokens()[1]))

    found = gradients(learning)
    assert jax.tree.structure(found) == jax.tree.structure(learning)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(found))


def test_cached_decoding_with_adapters_is_the_full_pass():
    model, params = tiny.causal_lm()
    adapters = shaken(lora.init(EVERYTHING, params, jax.random.key(0)))
    whole = lora.overlay(EVERYTHING, params, adapters)
    rows, mask = tokens()
    cache = transformer.attention.init_cache(model.config, 2, 6)
    unstacked = transformer.unstack(whole, model.config)
    read = jax.jit(model.apply)
    pieces = []
    for part in (slice(0, 4), slice(4, 5), slice(5, 6)):
        found, cache = read({'params': unstacked}, rows[:, part], mask[:, part], cache)
        pieces.append(found)
    full = logits(model, whole)
    np.testing.assert_allclose(
        jnp.concatenate(pieces, axis=1)[mask], full[mask], atol=2e-5
    )


def test_an_expression_without_a_match_lists_what_there_is():
    _, params = tiny.score_model()
    config = lora.LoraConfig(rank=2, targets='attention/q')
    with pytest.raises(lora.LoraError, match='matches none of: layers/attention/k, '):
        lora.init(config, params, jax.random.key(0))


@pytest.mark.parametrize(
    ('fields', 'complaint'),
    [
        ({'rank': -1}, 'rank=-1; must not be negative'),
        ({'alpha': 0}, 'alpha=0; must be above 0'),
        ({'targets': '['}, r"targets='\[' is no regular expression"),
    ],
)
def test_values_out_of_range_are_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        lora.LoraConfig(**fields)


@pytest.mark.parametrize('mesh', [(8, 1, 1), (1, 4, 2)])
def test_adapters_have_rules(mesh):
    config = tiny.config(embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8)
    abstract = hf.abstract_params(transformer.CausalLM(config))
    everywhere = lora.LoraConfig(rank=2, targets='.*')
    adapters = jax.eval_shape(
        lambda key: lora.init(everywhere, abstract, key), jax.random.key(0)
    )
    placed = sharding.param_shardings(
        sharding.make_mesh(*mesh), transformer.RULES, adapters
    )
    for leaf, found in zip(
        jax.tree.leaves(adapters), jax.tree.leaves(placed), strict=True
    ):
        assert len(found.spec) == leaf.ndim
