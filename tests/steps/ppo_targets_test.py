"""Rewards, costs and advantages of tokens, by hand. No model is needed."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from beaver_jax import types
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_targets


def short_rollout(**changes):
    """One row of two response tokens, cut by length, with numbers for the hand."""
    samples = types.Samples(
        tokens=jnp.array([[5, 6, 7]]),
        mask=jnp.ones((1, 3), bool),
        response_mask=jnp.ones((1, 2), bool),
        logps=jnp.array([[-1.0, -2.0]]),
        truncated=jnp.array([True]),
    )
    fields = {
        'samples': samples,
        'ref_logps': jnp.array([[-2.0, -1.0]]),  # kl is 1, -1
        'reward': jnp.array([3.0]),
        'costs': {'harm': jnp.array([2.0])},
        'reward_values': jnp.array([[0.5, 1.0, 4.0]]),
        'cost_values': {'harm': jnp.array([[0.0, 1.0, 6.0]])},
    }
    return types.Experience(**(fields | changes))


HAND = ppo_config.PPOConfig(kl_coeff=0.5, gae_lambda=1.0)


def test_divergence_enters_both_streams():
    rewards, costs = ppo_targets.token_rewards(short_rollout(), HAND)
    # -0.5·1;  -0.5·-1 + 3     and     +0.5·1;  +0.5·-1 + 2
    np.testing.assert_allclose(rewards, [[-0.5, 3.5]])
    np.testing.assert_allclose(costs['harm'], [[0.5, 1.5]])


def test_a_cut_response_is_terminal_as_in_the_original():
    targets, metrics = ppo_targets.make_targets(short_rollout(), HAND)
    # Returns are sums of rewards: 3 and 3.5; advantages less the values 0.5 and 1.
    np.testing.assert_allclose(targets.reward_returns, [[3, 3.5]])
    np.testing.assert_allclose(targets.reward_advantages, [[2.5, 2.5]])
    # Of costs: 2 and 1.5, less 0 and 1.
    np.testing.assert_allclose(targets.cost_advantages['harm'], [[2, 0.5]])
    assert metrics['train/reward_with_kl_penalty'] == 3
    assert metrics['train/cost_with_kl_penalty/harm'] == 2
    assert metrics['train/reward_advantage'] == 2.5
    assert metrics['train/cost_return/harm'] == 1.75


def test_or_it_goes_on_with_the_value_and_no_score():
    config = dataclasses.replace(HAND, truncation='bootstrap')
    targets, _ = ppo_targets.make_targets(short_rollout(), config)
    # Rewards -0.5, 0.5, then V = 4 in place of the score: 4 and 4.5.
    np.testing.assert_allclose(targets.reward_returns, [[4, 4.5]])
    # Costs 0.5, -0.5, then V = 6: 6 and 5.5.
    np.testing.assert_allclose(targets.cost_returns['harm'], [[6, 5.5]])


def test_shaping_subtracts_costs_from_the_reward():
    config = dataclasses.replace(HAND, shaping={'harm': 0.25})
    rewards, costs = ppo_targets.token_rewards(short_rollout(cost_values={}), config)
    # The end is 0.5 + 3 - 0.25·2; no stream of costs remains.
    np.testing.assert_allclose(rewards, [[-0.5, 3.0]])
    assert costs == {}
