"""What PPO-Lagrangian learns from: token rewards and costs, advantages, returns."""

from flax import struct
import jax
import jax.numpy as jnp

from beaver_jax import types
from beaver_jax.losses import masked
from beaver_jax.losses import ppo
from beaver_jax.steps import ppo_config

Metrics = dict[str, jax.Array]


class Targets(struct.PyTreeNode):
    """What a minibatch learns from, computed once per rollout batch."""

    reward_advantages: jax.Array  # [B, G]
    reward_returns: jax.Array  # [B, G]
    cost_advantages: dict[str, jax.Array]  # [B, G] by constraint
    cost_returns: dict[str, jax.Array]  # [B, G] by constraint


def token_rewards(
    experience: types.Experience, config: ppo_config.PPOConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """KL-regularized rewards [B, G] and costs [B, G] by constraint."""
    samples = experience.samples
    kl = samples.logps - experience.ref_logps
    reward = experience.reward
    for name, coefficient in config.shaping.items():
        reward = reward - coefficient * experience.costs[name]
    ends = {name: experience.costs[name] for name in experience.cost_values}
    if config.truncation == 'bootstrap':
        # The episode did not end: a score of the fragment would be no return.
        reward, ends = jax.tree.map(
            lambda x: jnp.where(samples.truncated, 0.0, x), (reward, ends)
        )

    def regularize(end, kl_coeff):
        return ppo.kl_regularized(
            end,
            kl,
            samples.response_mask,
            kl_coeff=kl_coeff,
            clip_score=config.clip_score,
        )

    return regularize(reward, config.kl_coeff), {
        name: regularize(end, -config.kl_coeff) for name, end in ends.items()
    }


def estimate(
    stream: jax.Array,
    values: jax.Array,
    samples: types.Samples,
    config: ppo_config.PPOConfig,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and returns, [B, G] each, of token rewards [B, G] or costs.

    Args:
      stream: The rewards.
      values: [B, G + 1].
      samples: Whose they are.
      config: Coefficients.
    """
    return ppo.gae(
        stream,
        values,
        samples.response_mask,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        bootstrap=samples.truncated if config.truncation == 'bootstrap' else None,
    )


def make_targets(
    experience: types.Experience, config: ppo_config.PPOConfig
) -> tuple[Targets, Metrics]:
    """Advantages and returns of every stream, and their means as metrics."""
    samples = experience.samples
    mask = samples.response_mask
    rewards, costs = token_rewards(experience, config)
    reward_targets = estimate(rewards, experience.reward_values, samples, config)
    cost_targets = {
        name: estimate(costs[name], values, samples, config)
        for name, values in experience.cost_values.items()
    }
    metrics = _stream_metrics('reward', '', rewards, reward_targets, mask)
    for name, found in cost_targets.items():
        metrics |= _stream_metrics('cost', f'/{name}', costs[name], found, mask)
    targets = Targets(
        reward_advantages=reward_targets[0],
        reward_returns=reward_targets[1],
        cost_advantages={name: found[0] for name, found in cost_targets.items()},
        cost_returns={name: found[1] for name, found in cost_targets.items()},
    )
    return targets, metrics


def _stream_metrics(kind, suffix, stream, targets, mask) -> Metrics:
    advantages, returns = targets
    return {
        f'train/{kind}_with_kl_penalty{suffix}': jnp.mean(jnp.sum(stream, axis=1)),
        f'train/{kind}_advantage{suffix}': masked.masked_mean(advantages, mask),
        f'train/{kind}_return{suffix}': masked.masked_mean(returns, mask),
    }
