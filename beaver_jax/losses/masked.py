"""Means over the tokens that count."""

import chex
import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array, *, per_token: bool = False) -> jax.Array:
    """Mean over the tokens where the mask is true.

    By default per row first, then over rows, so that every row has the same weight
    whatever its length (safe-rlhf's choice): mean_b (Σ_t m·x / Σ_t m). With
    `per_token` one mean over all tokens: Σ_bt m·x / Σ_bt m.

    Args:
      x: [B, T].
      mask: [B, T] bool. A row without any True counts as a row of value 0 in the
        mean over rows.
      per_token: One mean over all tokens.

    Returns:
      [] float.
    """
    chex.assert_rank([x, mask], 2)
    chex.assert_equal_shape([x, mask])
    x = jnp.where(mask, x, 0)
    if per_token:
        return jnp.sum(x) / jnp.maximum(jnp.sum(mask), 1)
    counts = jnp.sum(mask, axis=1)
    return jnp.mean(jnp.sum(x, axis=1) / jnp.maximum(counts, 1))
