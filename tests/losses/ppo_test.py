"""Tests of token rewards, advantages and the clipped objectives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.losses import masked
from beaver_jax.losses import ppo

MASK = jnp.array([[True, True, True, False], [True, True, False, False]])
KL = jnp.array([[0.5, -1.0, 2.0, 7.0], [0.0, 4.0, 7.0, 7.0]])
ENDS = jnp.array([3.0, -2.0])


def regularized(kl_coeff, clip_score=50.0):
    return ppo.kl_regularized(ENDS, KL, MASK, kl_coeff=kl_coeff, clip_score=clip_score)


def estimate(rewards, values, mask, *, gamma=1.0, gae_lambda=1.0, bootstrap=None):
    return ppo.gae(
        rewards,
        values,
        mask,
        gamma=gamma,
        gae_lambda=gae_lambda,
        bootstrap=bootstrap,
    )


def test_the_last_token_of_each_row():
    mask = MASK.at[1].set(False)
    expected = [[0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(ppo.last_token(mask), expected)
    full = jnp.ones((1, 3), bool)
    np.testing.assert_array_equal(ppo.last_token(full), [[0, 0, 1]])


def test_rewards_pay_for_divergence_and_end_with_the_score():
    # -0.1·kl, and + R at the end: -0.2 + 3; -0.4 - 2.
    expected = [[-0.05, 0.1, 2.8, 0.0], [0.0, -2.4, 0.0, 0.0]]
    np.testing.assert_allclose(regularized(0.1), expected, rtol=1e-6)


def test_costs_rise_with_divergence():
    # +0.1·kl, and + C at the end: 0.2 + 3; 0.4 - 2.
    expected = [[0.05, -0.1, 3.2, 0.0], [0.0, -1.6, 0.0, 0.0]]
    np.testing.assert_allclose(regularized(-0.1), expected, rtol=1e-6)


def test_token_rewards_are_clipped_with_their_divergence():
    # Unclipped: -0.5, 1, -2 + 3 = 1; 0, -4 - 2 = -6.
    expected = [[-0.5, 0.8, 0.8, 0.0], [0.0, -0.8, 0.0, 0.0]]
    np.testing.assert_allclose(regularized(1.0, clip_score=0.8), expected, rtol=1e-6)


@pytest.mark.parametrize('multiplier', [0.0, 0.5, 3.0])
def test_the_effective_kl_coefficient_does_not_depend_on_the_multiplier(multiplier):
    ends = jnp.zeros(2)
    reward, cost = (
        ppo.kl_regularized(ends, KL, MASK, kl_coeff=kl_coeff, clip_score=50.0)
        for kl_coeff in (0.1, -0.1)
    )
    # (-κ·kl - λ·κ·kl) / (1 + λ) = -κ·kl
    net = ppo.lagrangian_advantages(
        reward, {'harm': cost}, {'harm': jnp.float32(multiplier)}
    )
    np.testing.assert_allclose(net, jnp.where(MASK, -0.1 * KL, 0.0), rtol=1e-6)


def test_advantages_by_hand_on_rows_of_different_lengths():
    rewards = jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 9.0]])
    values = jnp.array([[0.5, 1.0, 2.0, 9.0], [0.5, 1.0, 9.0, 9.0]])
    mask = jnp.array([[True, True, True], [True, True, False]])
    advantages, returns = estimate(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    # Row 0: δ = 1 + 0.5·1 - 0.5 = 1;  2 + 0.5·2 - 1 = 2;  3 + 0 - 2 = 1.
    #        A = 1 + 0.25·2.25 = 1.5625;  2 + 0.25·1 = 2.25;  1.
    # Row 1: δ = 1;  2 + 0 - 1 = 1 (the value after the end is 0, not 9).
    #        A = 1 + 0.25·1 = 1.25;  1;  nothing.
    np.testing.assert_allclose(advantages, [[1.5625, 2.25, 1], [1.25, 1, 0]])
    np.testing.assert_allclose(returns, [[2.0625, 3.25, 3], [1.75, 2, 0]])


def random_rows():
    keys = jax.random.split(jax.random.key(0), 2)
    mask = jnp.array([[True] * 5, [True, True, False, False, False]])
    rewards = jnp.where(mask, jax.random.normal(keys[0], (2, 5)), 0.0)
    return rewards, jax.random.normal(keys[1], (2, 6)), mask


def test_without_discount_it_is_the_sum_of_rewards_minus_the_value():
    rewards, values, mask = random_rows()
    advantages, returns = estimate(rewards, values, mask)
    sums = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(returns, jnp.where(mask, sums, 0.0), atol=1e-5)
    expected = jnp.where(mask, sums - values[:, :-1], 0.0)
    np.testing.assert_allclose(advantages, expected, atol=1e-5)


def test_with_gae_lambda_0_it_is_the_one_step_error():
    rewards, values, mask = random_rows()
    advantages, _ = estimate(rewards, values, mask, gamma=0.9, gae_lambda=0.0)
    after = jnp.where(mask & ~ppo.last_token(mask), values[:, 1:], 0.0)
    expected = jnp.where(mask, rewards + 0.9 * after - values[:, :-1], 0.0)
    np.testing.assert_allclose(advantages, expected, atol=1e-6)


def test_padding_changes_no_advantage():
    rewards, values, mask = random_rows()
    wild_rewards = jnp.where(mask, rewards, jnp.nan)
    before = jnp.concatenate([mask, jnp.zeros((2, 1), bool)], axis=1)
    wild_values = jnp.where(before, values, jnp.nan)
    found = estimate(wild_rewards, wild_values, mask, gae_lambda=0.95)
    expected = estimate(rewards, values, mask, gae_lambda=0.95)
    np.testing.assert_array_equal(found, expected)


def test_bootstrapped_rows_go_on_after_their_last_token():
    rewards = jnp.array([[1.0, 2.0], [1.0, 2.0]])
    values = jnp.array([[0.5, 1.0, 4.0], [0.5, 1.0, 4.0]])
    mask = jnp.ones((2, 2), bool)
    advantages, _ = estimate(rewards, values, mask, bootstrap=jnp.array([True, False]))
    # Cut by length: δ = 1 + 1 - 0.5 = 1.5;  2 + 4 - 1 = 5;  A = 6.5, 5.
    # Ended:         δ = 1.5;                 2 + 0 - 1 = 1;  A = 2.5, 1.
    np.testing.assert_allclose(advantages, [[6.5, 5], [2.5, 1]])


def test_constraints_enter_with_their_multipliers():
    reward, costs = (
        jnp.array([[3.0]]),
        {'a': jnp.array([[1.0]]), 'b': jnp.array([[-2.0]])},
    )
    multipliers = {'a': jnp.float32(0.5), 'b': jnp.float32(2.5)}
    # (3 - 0.5·1 + 2.5·2) / (1 + 3) = 7.5 / 4
    found = ppo.lagrangian_advantages(reward, costs, multipliers)
    np.testing.assert_allclose(found, [[1.875]])


def test_without_constraints_or_with_multiplier_0_it_is_ppo():
    reward, cost = jnp.array([[3.0, -1.0]]), jnp.array([[100.0, -7.0]])
    np.testing.assert_array_equal(ppo.lagrangian_advantages(reward, {}, {}), reward)
    zero = ppo.lagrangian_advantages(reward, {'a': cost}, {'a': jnp.float32(0)})
    np.testing.assert_array_equal(zero, reward)


def test_a_constraint_without_multiplier_is_refused():
    with pytest.raises(AssertionError):
        ppo.lagrangian_advantages(KL, {'a': KL}, {'b': jnp.float32(1)})


def actor_loss(ratio, advantages, mask=None, **changes):
    logps = jnp.log(jnp.array(ratio))
    mask = jnp.ones_like(logps, bool) if mask is None else mask
    settings = {'clip_ratio': 0.2} | changes
    return ppo.actor_loss(
        logps, jnp.zeros_like(logps), jnp.array(advantages), mask, **settings
    )


def test_the_objective_is_clipped_where_it_would_gain():
    # Gains beyond 1 ± 0.2 do not count, losses do:
    # min(1.5·2, 1.2·2) = 2.4;  min(0.5·2, 0.8·2) = 1;
    # min(1.5·-2, 1.2·-2) = -3;  min(0.5·-2, 0.8·-2) = -1.6.  Mean -0.3.
    loss = actor_loss([[1.5, 0.5, 1.5, 0.5]], [[2.0, 2.0, -2.0, -2.0]])
    np.testing.assert_allclose(loss, 0.3, rtol=1e-5)


def test_rows_or_tokens_have_the_same_weight():
    mask = jnp.array([[True, True, True], [True, False, False]])
    ratio = jnp.ones((2, 3))
    advantages = [[1.0, 2.0, 6.0], [5.0, 0.0, 0.0]]
    # -(9/3 + 5) / 2 and -(9 + 5) / 4
    np.testing.assert_allclose(actor_loss(ratio, advantages, mask), -4)
    per_token = actor_loss(ratio, advantages, mask, per_token=True)
    np.testing.assert_allclose(per_token, -3.5)


def test_equal_advantages_change_nothing_on_average():
    # On-policy, Σ_y π(y)·A·∇log π(y) = A·∇Σ π(y) = 0 for the same A: weight each
    # token by its probability and the gradient vanishes.
    logits = jnp.array([0.3, -1.0, 0.7])
    old = jax.nn.log_softmax(logits)
    mask = jnp.ones((1, 3), bool)

    def loss(logits, advantages):
        logps = jax.nn.log_softmax(logits)[None]
        weighted = advantages * jnp.exp(old)[None]
        return ppo.actor_loss(logps, old[None], weighted, mask, clip_ratio=0.2)

    equal = jax.grad(loss)(logits, jnp.full((1, 3), 5.0))
    np.testing.assert_allclose(equal, jnp.zeros(3), atol=1e-6)
    other = jax.grad(loss)(logits, jnp.array([[5.0, 5.0, 6.0]]))
    assert jnp.max(jnp.abs(other)) > 0.01


def test_no_gradient_flows_through_advantages():
    advantages = jnp.array([[1.0, -2.0]])
    logps = jnp.zeros((1, 2))
    gradient = jax.grad(
        lambda a: ppo.actor_loss(logps, logps, a, a != 0, clip_ratio=0.2)
    )(advantages)
    assert not gradient.any()


def test_padding_changes_neither_actor_loss_nor_gradient():
    mask = jnp.array([[True, False]])

    def loss(logps):
        return ppo.actor_loss(
            logps, jnp.zeros((1, 2)), jnp.array([[2.0, 3.0]]), mask, clip_ratio=0.2
        )

    # exp(1000) would overflow, and 0·inf in the gradient is not a number.
    for wild in (1000.0, jnp.inf):
        found = jax.value_and_grad(loss)(jnp.array([[0.1, wild]]))
        expected = jax.value_and_grad(loss)(jnp.array([[0.1, 0.0]]))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_clip_fraction_is_a_mean_over_rows_or_tokens():
    ratio = jnp.array([[1.0, 1.3, 0.7, 1.1], [1.9, 1.9, 1.0, 1.0]])
    mask = jnp.array([[True, True, True, True], [True, False, False, False]])
    # 1.3 and 0.7 of four, 1.9 of one: (2/4 + 1) / 2 by rows, 3/5 by tokens.
    args = jnp.log(ratio), jnp.zeros((2, 4)), mask
    found = ppo.clip_fraction(*args, clip_ratio=0.2)
    np.testing.assert_allclose(found, 0.75, rtol=1e-6)
    found = ppo.clip_fraction(*args, clip_ratio=0.2, per_token=True)
    np.testing.assert_allclose(found, 3 / 5, rtol=1e-6)


def critic_loss(values, mask=None, **changes):
    values = jnp.array(values)
    mask = jnp.ones_like(values, bool) if mask is None else mask
    settings = {'clip_value': 0.5} | changes
    old, returns = jnp.zeros_like(values), jnp.ones_like(values)
    return ppo.critic_loss(values, old, returns, mask, **settings)


def test_the_value_loss_takes_the_worse_of_moved_and_clipped():
    # Returns 1, old values 0, clip 0.5:
    # V = 0.2: 0.8² = 0.64;  V = 0.9: max(0.1², (0.5 - 1)²) = 0.25;
    # V = 3: max(2², 0.5²) = 4.  Half of the mean of 0.64, 0.25, 4.
    np.testing.assert_allclose(critic_loss([[0.2, 0.9, 3.0]]), 4.89 / 6, rtol=1e-6)


def test_beyond_the_clip_a_better_value_has_no_gradient():
    gradient = jax.grad(lambda v: critic_loss(v))(jnp.array([[0.2, 0.9, 3.0]]))
    # ½·2·(V - 1) / 3 where the moved value counts, 0 where the clipped one does.
    np.testing.assert_allclose(gradient, [[-0.8 / 3, 0, 2 / 3]], rtol=1e-6)


def test_padding_changes_neither_critic_loss_nor_gradient():
    mask = jnp.array([[True, True, False]])
    one = jax.value_and_grad(lambda v: critic_loss(v, mask))(
        jnp.array([[0.2, 3.0, 0.0]])
    )
    other = jax.value_and_grad(lambda v: critic_loss(v, mask))(
        jnp.array([[0.2, 3.0, 1e10]])
    )
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_critic_rows_or_tokens_have_the_same_weight():
    mask = jnp.array([[True, True], [True, False]])
    values = [[1.0, 1.0], [0.0, 0.0]]
    # Errors 0, 0 and 1: ½·(0 + 1)/2 per row, ½·1/3 per token.
    per_row = critic_loss(values, mask, clip_value=2.0)
    np.testing.assert_allclose(per_row, 0.25)
    per_token = critic_loss(values, mask, clip_value=2.0, per_token=True)
    np.testing.assert_allclose(per_token, 1 / 6, rtol=1e-6)


def test_the_mean_of_advantages_is_what_an_unmoved_policy_loses():
    rewards, values, mask = random_rows()
    advantages, _ = estimate(rewards, values, mask, gae_lambda=0.95)
    logps = jnp.full((2, 5), math.log(0.3))
    loss = ppo.actor_loss(logps, logps, advantages, mask, clip_ratio=0.2)
    np.testing.assert_allclose(loss, -masked.masked_mean(advantages, mask), rtol=1e-6)
