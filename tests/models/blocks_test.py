"""Norms, the MLP and a layer of a decoder."""

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.models import blocks
from beaver_jax.models import modules
from tests import tiny
from tests.models import decoders


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
        jax.jacobian(lambda hidden: decoders.one_layer(model, layer, hidden, mask))
    )(hidden)
    influence = jnp.sum(jnp.abs(jacobian), axis=(0, 2, 3, 5))  # [T out, T in]
    np.testing.assert_array_equal(influence > 0, np.tri(6, dtype=bool))
