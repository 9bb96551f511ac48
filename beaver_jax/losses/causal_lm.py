"""Log-probabilities of tokens, and the supervised loss made of them."""

import chex
import jax
import jax.numpy as jnp

from beaver_jax.losses import masked


def token_logps(
    logits: jax.Array, tokens: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
    """log π(y_t) of given tokens under a softmax at a temperature.

    Args:
      logits: [B, T, V] float32; position t is the distribution of tokens[:, t].
      tokens: [B, T] int32.
      temperature: Above 0; the policy is softmax(logits / temperature).

    Returns:
      [B, T] float32.
    """
    chex.assert_rank([logits, tokens], [3, 2])
    chex.assert_equal_shape_prefix([logits, tokens], 2)
    logits = logits / temperature
    # A sum of one: its gradient is no scatter, and devices may have parts of V each.
    ids = jax.lax.broadcasted_iota(tokens.dtype, logits.shape, 2)
    chosen = jnp.sum(jnp.where(ids == tokens[..., None], logits, 0.0), axis=-1)
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """-Σ_v π(v) log π(v) = log Σ_v e^l(v) - Σ_v π(v) l(v), in nats, of logits l.

    Args:
      logits: [B, T, V] float32.
      temperature: Above 0; the policy is softmax(logits / temperature).

    Returns:
      [B, T] float32.
    """
    chex.assert_rank(logits, 3)
    logits = logits / temperature
    # No exponential overflows, and what is subtracted below is small.
    logits -= jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits)
    total = jnp.sum(weights, axis=-1)
    # A matmul: XLA on CPU takes eight times as long for a sum of products with e^l.
    mean = jnp.einsum('BTV,BTV->BT', weights, logits, precision='highest') / total
    return jnp.log(total) - mean


def causal_lm_loss(logps: jax.Array, mask: jax.Array) -> jax.Array:
    """-mean log π(y_t | y_<t), one mean over all counted tokens of the batch.

    Args:
      logps: [B, T], of each token given those before it.
      mask: [B, T] bool, True where a token is to be learnt.

    Returns:
      [] float.
    """
    return -masked.masked_mean(logps, mask, per_token=True)
