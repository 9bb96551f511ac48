"""Tests of learners and of gradients in parts, on a loss without a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from beaver_jax.losses import masked
from beaver_jax.steps import state as state_lib

ROWS, LENGTH = 8, 5


def batch():
    """Rows of 1 to 5 tokens, so that parts hold different numbers of them."""
    lengths = jnp.array([5, 1, 2, 1, 4, 1, 3, 2])
    mask = jnp.arange(LENGTH)[None] < lengths[:, None]
    return jax.random.normal(jax.random.key(0), (ROWS, LENGTH)), mask


def loss(params, batch, *, per_token):
    x, mask = batch
    value = masked.masked_mean(jnp.sin(params['w'] * x), mask, per_token=per_token)
    weight = jnp.sum(mask) if per_token else jnp.float32(x.shape[0])
    return value, state_lib.Aux(weight, {'loss': value}, x[:, 0])


@pytest.mark.parametrize('per_token', [False, True])
@pytest.mark.parametrize('parts', [2, 4, 8])
def test_parts_change_nothing(parts, per_token):
    params = {'w': jnp.float32(1.5)}
    loss_fn = functools.partial(loss, per_token=per_token)
    whole = state_lib.gradients(loss_fn, params, batch())
    cut = state_lib.gradients(loss_fn, params, batch(), parts=parts)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), whole, cut)
    # Outputs keep the order of the rows.
    np.testing.assert_array_equal(cut[2], batch()[0][:, 0])


def test_a_plain_mean_of_token_means_would_be_another_number():
    loss_fn = functools.partial(loss, per_token=True)
    params, (x, mask) = {'w': jnp.float32(1.5)}, batch()
    halves = [
        state_lib.gradients(loss_fn, params, (x[i::2], mask[i::2]))[0]['w']
        for i in range(2)
    ]
    whole, _, _ = state_lib.gradients(loss_fn, params, (x, mask))
    assert abs(sum(halves) / 2 - whole['w']) > 1e-3


def test_a_part_without_weight_counts_nothing():
    x, mask = batch()
    mask = mask.at[::2].set(False)  # the first of two parts has no token
    loss_fn = functools.partial(loss, per_token=True)
    params = {'w': jnp.float32(1.5)}
    whole, _, _ = state_lib.gradients(loss_fn, params, (x, mask))
    cut, _, _ = state_lib.gradients(loss_fn, params, (x, mask), parts=2)
    np.testing.assert_allclose(cut['w'], whole['w'], rtol=1e-5)


def test_an_update_moves_parameters_and_optimizer():
    optimizer = optax.sgd(0.5, momentum=0.9)
    learner = state_lib.init_learner({'w': jnp.float32(1.0)}, optimizer)
    gradient = {'w': jnp.float32(2.0)}
    # 1 - 0.5·2 = 0; momentum 2, then 0.9·2 + 2 = 3.8: 0 - 0.5·3.8
    learner = state_lib.apply_gradients(learner, gradient, optimizer)
    assert learner.params['w'] == 0
    learner = state_lib.apply_gradients(learner, gradient, optimizer)
    np.testing.assert_allclose(learner.params['w'], -1.9, rtol=1e-6)


def test_bad_steps_are_counted_in_a_row_wherever_the_guard_stands():
    optimizer = optax.chain(
        optax.apply_if_finite(optax.sgd(1.0), 100), optax.scale(1.0)
    )
    learner = state_lib.init_learner({'w': jnp.float32(1.0)}, optimizer)
    for gradient, count in ((jnp.nan, 1), (jnp.inf, 2), (0.25, 0), (jnp.nan, 1)):
        learner = state_lib.apply_gradients(
            learner, {'w': jnp.float32(gradient)}, optimizer
        )
        assert state_lib.bad_steps(learner) == count
    assert learner.params['w'] == 0.75


def test_without_a_guard_there_are_no_bad_steps():
    learner = state_lib.init_learner({'w': jnp.float32(1.0)}, optax.adam(1.0))
    assert state_lib.bad_steps(learner) == 0
