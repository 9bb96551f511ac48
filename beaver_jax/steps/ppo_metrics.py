"""What a step of PPO-Lagrangian says of its rollout and its multipliers."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from beaver_jax import multiplier as multiplier_lib
from beaver_jax import types
from beaver_jax.steps import ppo_config

Metrics = dict[str, jax.Array]


def of_rollout(experience: types.Experience, config: ppo_config.PPOConfig) -> Metrics:
    """Of a rollout batch, before anything is learnt from it."""
    samples = experience.samples
    kl = jnp.where(samples.response_mask, samples.logps - experience.ref_logps, 0.0)
    lengths = jnp.sum(samples.response_mask, axis=1, dtype=jnp.float32)
    metrics = {
        'train/reward': jnp.mean(experience.reward),
        'train/reward_std': jnp.std(experience.reward),  # among the samples
        'train/kl_divergence': jnp.mean(jnp.sum(kl, axis=1)),
        'train/effective_kl_coeff': jnp.float32(config.kl_coeff),
        'train/mean_generated_length': jnp.mean(lengths),
        'train/max_generated_length': jnp.max(lengths),
        'train/truncated_share': jnp.mean(samples.truncated.astype(jnp.float32)),
    }
    for name, costs in experience.costs.items():
        metrics[f'train/cost/{name}'] = jnp.mean(costs)
    if config.shaping:
        shaped = experience.reward - sum(
            coefficient * experience.costs[name]
            for name, coefficient in config.shaping.items()
        )
        metrics['train/shaped_reward'] = jnp.mean(shaped)
    return metrics


def of_multipliers(
    multipliers: Mapping[str, jax.Array],
    windows: Mapping[str, multiplier_lib.CostWindow],
    thresholds: Mapping[str, float],
) -> Metrics:
    """Of λ and the thresholds by constraint, and of the windows by cost."""
    metrics = {
        f'train/episode_cost/{name}': multiplier_lib.window_mean(window)
        for name, window in windows.items()
    }
    for name, value in multipliers.items():
        metrics[f'train/lambda/{name}'] = value
        metrics[f'train/threshold/{name}'] = jnp.float32(thresholds[name])
    return metrics


def with_plain_names(metrics: Metrics, costs: tuple[str, ...]) -> Metrics:
    """With a single cost, adds the original's names, without the cost's name."""
    if len(costs) != 1:
        return metrics
    suffix = f'/{costs[0]}'
    plain = {
        name.removesuffix(suffix): value
        for name, value in metrics.items()
        if name.endswith(suffix)
    }
    return metrics | plain
