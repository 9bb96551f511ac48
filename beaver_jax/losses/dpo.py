"""Direct preference optimization (Rafailov et al., arXiv 2305.18290, equation 7)."""

import chex
import jax
import jax.numpy as jnp


def dpo_loss(
    logps: jax.Array, ref_logps: jax.Array, mask: jax.Array, *, scale: float
) -> tuple[jax.Array, jax.Array]:
    """L = -mean log σ(β·[Σ(log π - log π_ref)_better - Σ(log π - log π_ref)_worse]).

    Args:
      logps: [B, 2, T] of the policy; index 0 the better sequence.
      ref_logps: [B, 2, T] of the reference.
      mask: [B, 2, T] bool, the response tokens.
      scale: β, above 0.

    Returns:
      (loss [], implicit rewards β·Σ(log π - log π_ref) [B, 2]).
    """
    chex.assert_rank([logps, ref_logps, mask], 3)
    chex.assert_equal_shape([logps, ref_logps, mask])
    rewards = scale * jnp.sum(jnp.where(mask, logps - ref_logps, 0.0), axis=2)
    margin = rewards[:, 0] - rewards[:, 1]
    return jnp.mean(-jax.nn.log_sigmoid(margin)), rewards
