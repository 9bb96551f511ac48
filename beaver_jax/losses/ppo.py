"""The losses of PPO-Lagrangian, from token rewards to the clipped objectives.

Safe RLHF (arXiv 2310.12773), appendix B; PPO (arXiv 1707.06347); GAE (1506.02438).
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from beaver_jax.losses import masked


def last_token(mask: jax.Array) -> jax.Array:
    """True at each row's last real token: [B, G] bool, right padded, to [B, G]."""
    after = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
    return mask & ~after


def kl_regularized(
    end_score: jax.Array,
    kl: jax.Array,
    mask: jax.Array,
    *,
    kl_coeff: float,
    clip_score: float,
) -> jax.Array:
    """r_t = clip(-κ·kl_t + [t = end]·R, ±clip); a cost is given as κ < 0.

    Args:
      end_score: [B], R.
      kl: [B, G], log π_old - log π_ref at the sampled tokens.
      mask: [B, G] bool.
      kl_coeff: κ for a reward, -κ for a cost: then (−κ − λκ)/(1 + λ) = −κ, and the
        effective coefficient does not depend on λ.
      clip_score: Bound of the result, above 0.

    Returns:
      [B, G], 0 outside the mask.
    """
    chex.assert_rank([end_score, kl, mask], [1, 2, 2])
    chex.assert_equal_shape([kl, mask])
    rewards = -kl_coeff * kl + jnp.where(last_token(mask), end_score[:, None], 0.0)
    return jnp.where(mask, jnp.clip(rewards, -clip_score, clip_score), 0.0)


def gae(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Generalized advantage estimation (arXiv 1506.02438, equation 16).

    δ_t = r_t + γ·V_{t+1} - V_t;  A_t = δ_t + γλ·A_{t+1};  return_t = A_t + V_t.

    Args:
      rewards: [B, G].
      values: [B, G + 1], V before each token, and after the last.
      mask: [B, G] bool, right padded.
      gamma: Discount in [0, 1].
      gae_lambda: In [0, 1].
      bootstrap: [B] bool or None; True rows go on after their last token, and V there
        stands for what would have come. V after the end is 0 in the others.

    Returns:
      (advantages [B, G], returns [B, G]), 0 outside the mask.
    """
    chex.assert_rank([rewards, values, mask], 2)
    chex.assert_equal_shape([rewards, mask, values[:, 1:]])
    after = values[:, 1:]
    goes_on = mask & ~last_token(mask)
    if bootstrap is not None:
        goes_on = goes_on | (last_token(mask) & bootstrap[:, None])
    delta = rewards + gamma * jnp.where(goes_on, after, 0.0) - values[:, :-1]
    delta = jnp.where(mask, delta, 0.0)

    def step(advantage, delta_t):
        advantage = delta_t + gamma * gae_lambda * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(
        step, jnp.zeros_like(delta[:, 0]), delta.T, reverse=True
    )
    advantages = jnp.where(mask, advantages.T, 0.0)
    return advantages, jnp.where(mask, advantages + values[:, :-1], 0.0)


def lagrangian_advantages(
    reward_advantages: jax.Array,
    cost_advantages: Mapping[str, jax.Array],
    multipliers: Mapping[str, jax.Array],
) -> jax.Array:
    """A = (A_r - Σ_k λ_k·A_ck) / (1 + Σ_k λ_k); without constraints A = A_r.

    Args:
      reward_advantages: [B, G].
      cost_advantages: [B, G] by constraint.
      multipliers: λ, [] by constraint, the same names.

    Returns:
      [B, G].
    """
    chex.assert_trees_all_equal_structs(dict(cost_advantages), dict(multipliers))
    total, scale = reward_advantages, jnp.ones(())
    for name, multiplier in multipliers.items():
        total = total - multiplier * cost_advantages[name]
        scale = scale + multiplier
    return total / scale


def actor_loss(
    logps: jax.Array,
    old_logps: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip_ratio: float,
    per_token: bool = False,
) -> jax.Array:
    """L = -mean_m min(ρ·A, clip(ρ, 1 ± ε)·A), ρ = exp(log π - log π_old).

    Args:
      logps: [B, G] of the policy that learns.
      old_logps: [B, G] of the policy that sampled.
      advantages: [B, G]; no gradient flows through them.
      mask: [B, G] bool.
      clip_ratio: ε, above 0.
      per_token: See `masked_mean`.

    Returns:
      [] float.
    """
    chex.assert_rank([logps, old_logps, advantages, mask], 2)
    chex.assert_equal_shape([logps, old_logps, advantages, mask])
    advantages = jax.lax.stop_gradient(advantages)
    # Masked before exp: padding must not overflow into a NaN gradient.
    ratio = jnp.exp(jnp.where(mask, logps - old_logps, 0.0))
    clipped = jnp.clip(ratio, 1 - clip_ratio, 1 + clip_ratio)
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    return -masked.masked_mean(surrogate, mask, per_token=per_token)


def clip_fraction(
    logps: jax.Array,
    old_logps: jax.Array,
    mask: jax.Array,
    *,
    clip_ratio: float,
    per_token: bool = False,
) -> jax.Array:
    """Share of tokens with |ρ - 1| > ε, where clipping can act: [] float.

    Args: see `actor_loss`.
    """
    ratio = jnp.exp(jnp.where(mask, logps - old_logps, 0.0))
    outside = (jnp.abs(ratio - 1) > clip_ratio).astype(jnp.float32)
    return masked.masked_mean(outside, mask, per_token=per_token)


def critic_loss(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    mask: jax.Array,
    *,
    clip_value: float,
    per_token: bool = False,
) -> jax.Array:
    """½·mean_m max((V - ret)², (clip(V, V_old ± ε_v) - ret)²).

    Args:
      values: [B, G] of the critic that learns.
      old_values: [B, G] when the samples were scored.
      returns: [B, G].
      mask: [B, G] bool.
      clip_value: ε_v, above 0.
      per_token: See `masked_mean`.

    Returns:
      [] float.
    """
    chex.assert_rank([values, old_values, returns, mask], 2)
    chex.assert_equal_shape([values, old_values, returns, mask])
    clipped = jnp.clip(values, old_values - clip_value, old_values + clip_value)
    errors = jnp.maximum(jnp.square(values - returns), jnp.square(clipped - returns))
    return 0.5 * masked.masked_mean(errors, mask, per_token=per_token)
