"""What actor and critics are differentiated by, with its metrics."""

from typing import Any

import jax
import jax.numpy as jnp

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.losses import masked
from beaver_jax.losses import ppo
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_targets
from beaver_jax.steps import state as state_lib

# Mean |log π - log π_old| of the first update's rows, whose policy is the one that
# sampled them: what the decoder with its cache and the full pass disagree by.
ROLLOUT_GAP = 'train/rollout_gap'


def actor_loss(
    params: Any,
    batch: tuple[types.Samples, jax.Array],
    *,
    model: transformer.CausalLM,
    config: ppo_config.PPOConfig,
) -> tuple[jax.Array, state_lib.Aux]:
    """The clipped objective on (samples, advantages [B, G])."""
    samples, advantages = batch
    mask = samples.response_mask
    logps, entropy = scoring.response_logps(
        model,
        params,
        samples.tokens,
        samples.mask,
        response_length=mask.shape[1],
        temperature=config.temperature,
        packs=samples.packs,
    )
    loss = ppo.actor_loss(
        logps,
        samples.logps,
        advantages,
        mask,
        clip_ratio=config.clip_ratio,
        per_token=config.per_token_mean,
    )
    metrics = {
        'train/actor_loss': loss,
        'train/clip_fraction': ppo.clip_fraction(
            logps,
            samples.logps,
            mask,
            clip_ratio=config.clip_ratio,
            per_token=config.per_token_mean,
        ),
        'train/entropy': masked.masked_mean(
            entropy, mask, per_token=config.per_token_mean
        ),
        ROLLOUT_GAP: masked.masked_mean(
            jnp.abs(logps - samples.logps), mask, per_token=config.per_token_mean
        ),
    }
    return loss, state_lib.Aux(_weight(mask, config), metrics)


def critic_loss(
    params: Any,
    batch: tuple[types.Samples, jax.Array, jax.Array],
    *,
    model: score.ScoreModel,
    config: ppo_config.PPOConfig,
) -> tuple[jax.Array, state_lib.Aux]:
    """The clipped value loss on (samples, old values [B, G], returns [B, G])."""
    samples, old_values, returns = batch
    values = _values(params, samples, model)[:, :-1]
    return _value_loss(values, old_values, returns, samples.response_mask, config)


def first_critic_loss(
    params: Any,
    batch: tuple[types.Samples, jax.Array],
    *,
    model: score.ScoreModel,
    config: ppo_config.PPOConfig,
) -> tuple[jax.Array, state_lib.Aux]:
    """The same on (samples, token rewards [B, G]), of a critic that scores them now.

    Its values are the old ones as well, and the returns are estimated from them. The
    outputs are these values, [B, G + 1].
    """
    samples, rewards = batch
    values = _values(params, samples, model)
    old_values = jax.lax.stop_gradient(values)
    _, returns = ppo_targets.estimate(rewards, old_values, samples, config)
    loss, aux = _value_loss(
        values[:, :-1], old_values[:, :-1], returns, samples.response_mask, config
    )
    return loss, aux._replace(outputs=old_values)


def _values(params, samples, model) -> jax.Array:
    length = samples.response_mask.shape[1]
    return scoring.response_values(
        model,
        params,
        samples.tokens,
        samples.mask,
        response_length=length,
        packs=samples.packs,
    )


def _value_loss(values, old_values, returns, mask, config):
    loss = ppo.critic_loss(
        values,
        old_values,
        returns,
        mask,
        clip_value=config.clip_value,
        per_token=config.per_token_mean,
    )
    metrics = {
        'loss': loss,
        'value': masked.masked_mean(values, mask, per_token=config.per_token_mean),
    }
    return loss, state_lib.Aux(_weight(mask, config), metrics)


def _weight(mask, config: ppo_config.PPOConfig) -> jax.Array:
    return jnp.sum(mask) if config.per_token_mean else jnp.float32(mask.shape[0])
