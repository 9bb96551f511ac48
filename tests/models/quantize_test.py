"""Kernels in 8 and 4 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import lora
from beaver_jax.models import quantize
from beaver_jax.models import transformer
from tests import tiny


def kernel(*shape):
    return jax.random.normal(jax.random.key(3), shape)


def test_eight_bits_by_hand():
    w = jnp.array([[1.27, 0.0], [-0.5, 0.0], [0.006, 0.0]])
    few = quantize.quantize(w, 'int8')
    # s = 1.27 / 127 = 0.01; 0.006 / 0.01 rounds to 1. A column of zeros stays one.
    np.testing.assert_array_equal(few[quantize.INT8], [[127, 0], [-50, 0], [1, 0]])
    np.testing.assert_allclose(few[quantize.SCALE], [[0.01, 1 / 127]], rtol=1e-6)
    wide = quantize.dequantize(few, jnp.float32)
    np.testing.assert_allclose(wide, [[1.27, 0], [-0.5, 0], [0.01, 0]], rtol=1e-6)


def test_four_bits_by_hand():
    w = jnp.array([[0.7], [-0.7], [0.24], [-0.26]])
    few = quantize.quantize(w, 'int4')
    # s = 0.7 / 7 = 0.1, so 7, -7, 2 and -3; bytes 7 - 7·16 and 2 - 3·16.
    np.testing.assert_array_equal(few[quantize.INT4], [[7 - 112], [2 - 48]])
    wide = quantize.dequantize(few, jnp.float32)
    np.testing.assert_allclose(wide, [[0.7], [-0.7], [0.2], [-0.3]], rtol=1e-6)


@pytest.mark.parametrize('kind, top, groups', [('int8', 127, 1), ('int4', 7, 3)])
def test_no_value_is_off_by_more_than_half_a_step(kind, top, groups):
    w = kernel(2, 192, 16)
    few = quantize.quantize(w, kind)
    assert few[quantize.SCALE].shape == (2, groups, 16)
    off = jnp.abs(quantize.dequantize(few, jnp.float32) - w)
    largest = jnp.abs(w).reshape(2, groups, -1, 16).max(axis=2)
    step = (largest / top).repeat(192 // groups, axis=1)
    assert bool((off <= 0.5001 * step).all())
    assert quantize.kernels({'x': few}) == {'x': (2, 192, 16)}


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_a_product_is_that_with_the_kernel_it_stands_for(kind):
    w, x = kernel(64, 24), kernel(3, 5, 64)
    few = quantize.quantize(w, kind)
    expected = x @ quantize.dequantize(few, jnp.float32)
    np.testing.assert_allclose(
        quantize.product(x, few, jnp.float32), expected, atol=1e-5
    )


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"'int7' is no kind of few bits; use int8 or"):
        quantize.quantize(kernel(8, 2), 'int7')


def test_an_odd_number_of_rows_does_not_fit_four_bits():
    with pytest.raises(ValueError, match=r'7 rows cannot share bytes .* use int8'):
        quantize.quantize(kernel(7, 2), 'int4')


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_a_quantized_model_is_the_model_of_what_its_bits_stand_for(kind):
    model, params = tiny.causal_lm()
    few = quantize.quantized(params, kind)
    tokens = jnp.arange(10).reshape(2, 5)
    mask = jnp.ones((2, 5), bool)
    wide = quantize.widened(few, jnp.float32)
    logits, expected = (
        model.apply({'params': p}, tokens, mask)[0] for p in (few, wide)
    )
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    original, _ = model.apply({'params': params}, tokens, mask)
    assert float(jnp.abs(expected - original).max()) > 1e-5
    # All but the layers' kernels are as they were.
    for name in ('embed', 'final_norm'):
        assert all(few[name][k] is leaf for k, leaf in params[name].items())


@pytest.mark.parametrize('kind, share', [('int8', 1 / 4), ('int4', 1 / 8)])
def test_bytes(kind, share):
    few = quantize.quantize(kernel(256, 64), kind)
    scales = few.pop(quantize.SCALE)
    (values,) = few.values()
    assert values.nbytes == 4 * 256 * 64 * share
    assert scales.nbytes == 4 * 64 * (1 if kind == 'int8' else 256 / 64)


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_adapters_fold_into_what_the_bits_stand_for(kind):
    _, params = tiny.causal_lm()
    config = lora.LoraConfig(rank=2)
    few = quantize.quantized(params, kind)
    adapters = lora.init(config, few, jax.random.key(0))
    plain = lora.init(config, params, jax.random.key(0))
    assert jax.tree.map(jnp.shape, adapters) == jax.tree.map(jnp.shape, plain)
    # Fresh adapters change nothing.
    folded = lora.fold(config, few, adapters)
    expected = quantize.widened(few, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, folded, expected)


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_every_leaf_has_a_rule(kind):
    _, params = tiny.causal_lm(vocab_size=12, head_dim=4)  # sizes that 2×2 devices cut
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    shapes = jax.eval_shape(lambda: quantize.quantized(params, kind))
    found = sharding.param_shardings(mesh, transformer.RULES, shapes)
    leaf = quantize.INT8 if kind == 'int8' else quantize.INT4
    q = found['layers']['attention']['q']
    assert q[leaf].spec == jax.sharding.PartitionSpec(None, 'fsdp', 'tensor')
    assert q[quantize.SCALE].spec == jax.sharding.PartitionSpec(None, None, 'tensor')
