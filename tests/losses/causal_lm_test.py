"""Tests of token log-probabilities and the supervised loss."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.losses import causal_lm

LOG2 = math.log(2)
# Softmax of (log 1, log 3) is (1/4, 3/4), of (0, 0) is (1/2, 1/2).
LOGITS = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 1.0]]]))
TOKENS = jnp.array([[1, 0]])


def test_log_probabilities_of_the_given_tokens():
    logps = causal_lm.token_logps(LOGITS, TOKENS)
    np.testing.assert_allclose(logps, [[math.log(3 / 4), -LOG2]], rtol=1e-6)


def test_temperature_divides_the_logits():
    # At temperature 1/2 the odds 1 : 3 become 1² : 3², so the second has 9 / 10.
    logps = causal_lm.token_logps(LOGITS, TOKENS, temperature=0.5)
    np.testing.assert_allclose(logps, [[math.log(9 / 10), -LOG2]], rtol=1e-6)


def test_adding_a_constant_to_the_logits_changes_nothing():
    moved = causal_lm.token_logps(LOGITS + 1000, TOKENS)
    np.testing.assert_allclose(moved, causal_lm.token_logps(LOGITS, TOKENS), atol=1e-4)


def test_entropy_in_nats():
    # -(1/4)·log(1/4) - (3/4)·log(3/4) = log 4 - (3/4)·log 3;  at 1/2, 1/2: log 2
    expected = [[2 * LOG2 - 0.75 * math.log(3), LOG2]]
    np.testing.assert_allclose(causal_lm.entropy(LOGITS), expected, rtol=1e-6)


def test_entropy_of_large_logits_is_as_exact_and_may_be_learnt_from():
    def entropy(logits):
        return jnp.sum(causal_lm.entropy(logits))

    near = jnp.array([[[0.0, 2.0, 1.0], [1.0, 1.0, -3.0]]])
    far = near + 1000.0  # the sum has no rounding, and e^1000 is infinite
    np.testing.assert_allclose(entropy(far), entropy(near), rtol=1e-6)
    # dH/dl_v = -π_v·(log π_v + H)
    logps = jax.nn.log_softmax(near)
    expected = -jnp.exp(logps) * (logps + causal_lm.entropy(near)[..., None])
    for logits in (near, far):
        np.testing.assert_allclose(jax.grad(entropy)(logits), expected, atol=1e-6)


def test_entropy_at_a_temperature():
    # -(1/10)·log(1/10) - (9/10)·log(9/10) = log 10 - (9/10)·log 9
    expected = [[math.log(10) - 0.9 * math.log(9), LOG2]]
    found = causal_lm.entropy(LOGITS, temperature=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_loss_is_one_mean_over_all_counted_tokens():
    logps = jnp.array([[-1.0, -2.0, -6.0], [-5.0, -9.0, -9.0]])
    mask = jnp.array([[True, True, True], [True, False, False]])
    # (1 + 2 + 6 + 5) / 4; rows first it would be (3 + 5) / 2 = 4
    assert causal_lm.causal_lm_loss(logps, mask) == 3.5


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    logits = jnp.zeros((2, 3, 7))
    logps = causal_lm.token_logps(logits, jnp.array([[0, 3, 6], [1, 2, 5]]))
    loss = causal_lm.causal_lm_loss(logps, jnp.ones((2, 3), bool))
    np.testing.assert_allclose(loss, math.log(7), rtol=1e-6)


def test_padding_changes_neither_loss_nor_gradient():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    tokens = jnp.array([[1, 2, 3], [4, 0, 1]])
    mask = jnp.array([[True, True, False], [False, True, True]])

    def loss(logits, tokens):
        return causal_lm.causal_lm_loss(causal_lm.token_logps(logits, tokens), mask)

    other = jnp.where(mask[..., None], logits, 50.0)
    tokens_too = jnp.where(mask, tokens, 0)
    assert loss(other, tokens_too) == loss(logits, tokens)
    gradient = jax.grad(loss)(other, tokens_too)
    np.testing.assert_array_equal(gradient, jax.grad(loss)(logits, tokens))
    assert not gradient[~mask].any()


def test_a_position_too_many_is_refused():
    with pytest.raises(AssertionError):
        causal_lm.token_logps(LOGITS, TOKENS[:, :1])
