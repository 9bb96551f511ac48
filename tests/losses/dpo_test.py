"""Tests of direct preference optimization."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.losses import dpo

LOGPS = jnp.array([[[-1.0, -2.0, -3.0], [-4.0, -1.0, -2.0]]])
REF_LOGPS = jnp.array([[[-2.0, -2.5, -9.0], [-3.0, -1.0, -2.0]]])
MASK = jnp.array([[[True, True, False], [True, True, True]]])


def test_loss_and_implicit_rewards():
    # Better: 0.5·((-1 + 2) + (-2 + 2.5)) = 0.75, the third token is padding.
    # Worse: 0.5·((-4 + 3) + 0 + 0) = -0.5. Margin 1.25.
    loss, rewards = dpo.dpo_loss(LOGPS, REF_LOGPS, MASK, scale=0.5)
    np.testing.assert_allclose(rewards, [[0.75, -0.5]], rtol=1e-6)
    np.testing.assert_allclose(loss, math.log1p(math.exp(-1.25)), rtol=1e-6)


def test_the_reference_itself_costs_log_2():
    loss, rewards = dpo.dpo_loss(REF_LOGPS, REF_LOGPS, MASK, scale=0.5)
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-6)
    assert not rewards.any()


def test_a_shared_prompt_cancels():
    prompt = jnp.broadcast_to(jnp.array([-7.0, -3.0]), (1, 2, 2))
    longer = jnp.concatenate([prompt, LOGPS], axis=2)
    longer_ref = jnp.concatenate([prompt / 2, REF_LOGPS], axis=2)
    mask = jnp.concatenate([jnp.ones((1, 2, 2), bool), MASK], axis=2)
    loss, _ = dpo.dpo_loss(longer, longer_ref, mask, scale=0.5)
    alone, _ = dpo.dpo_loss(LOGPS, REF_LOGPS, MASK, scale=0.5)
    np.testing.assert_allclose(loss, alone, rtol=1e-6)


def test_padding_changes_neither_loss_nor_gradient():
    def loss(logps):
        return dpo.dpo_loss(logps, REF_LOGPS, MASK, scale=0.5)[0]

    wild = jnp.where(MASK, LOGPS, -jnp.inf)
    assert loss(wild) == loss(LOGPS)
    gradient = jax.grad(loss)(wild)
    np.testing.assert_array_equal(gradient, jax.grad(loss)(LOGPS))
    assert not gradient[~MASK].any()


def test_the_gradient_raises_the_better_and_lowers_the_worse():
    # dL/dlog π = ∓β·σ(-margin) at counted tokens; margin 1.25, β 0.5.
    slope = 0.5 / (1 + math.exp(1.25))
    gradient = jax.grad(lambda x: dpo.dpo_loss(x, REF_LOGPS, MASK, scale=0.5)[0])(LOGPS)
    expected = [[[-slope, -slope, 0], [slope, slope, slope]]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
