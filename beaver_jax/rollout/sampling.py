"""From logits to a token. Axes: B rows, V vocabulary."""

import dataclasses

import jax
import jax.numpy as jnp

from beaver_jax.models import transformer

BLOCK = 128  # tokens that are drawn from together


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the next token is chosen. RL uses the temperature only.

    Attributes:
      temperature: Divides the logits; 0 takes the likeliest token.
      top_k: Keeps the k likeliest tokens; 0 keeps all.
      top_p: Keeps the smallest set of likeliest tokens that holds this mass, in (0, 1].
      repetition_penalty: Divides positive and multiplies negative logits of tokens
        that occurred, 1 for none (Keskar et al., arXiv 1909.05858).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        """Refuses values out of range."""
        if not self.temperature >= 0:
            raise ValueError(f'temperature={self.temperature}; must not be negative.')
        if self.top_k < 0:
            raise ValueError(f'top_k={self.top_k}; must not be negative.')
        if not 0 < self.top_p <= 1:
            raise ValueError(f'top_p={self.top_p}; must be in (0, 1].')
        if not self.repetition_penalty > 0:
            raise ValueError(
                f'repetition_penalty={self.repetition_penalty}; must be above 0.'
            )


def penalize(logits: jax.Array, seen: jax.Array, *, penalty: float) -> jax.Array:
    """Applies the repetition penalty to tokens seen: [B, V] and [B, V] bool."""
    scaled = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, scaled, logits)


def keep_top_k(logits: jax.Array, *, top_k: int) -> jax.Array:
    """-inf outside the k largest logits of each row, [B, V]."""
    smallest = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits < smallest, -jnp.inf, logits)


def keep_top_p(logits: jax.Array, *, top_p: float) -> jax.Array:
    """-inf outside the smallest set of likeliest tokens of mass top_p, [B, V]."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(ordered, axis=-1)
    # A token stays if the mass of those before it is below top_p; the first always.
    before = jnp.cumsum(probs, axis=-1) - probs
    smallest = jnp.min(
        jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True
    )
    return jnp.where(logits < smallest, -jnp.inf, logits)


def filter_logits(
    logits: jax.Array, sampler: Sampler, seen: jax.Array | None = None
) -> jax.Array:
    """The logits that are sampled from, in Hugging Face's order of the filters.

    Args:
      logits: [B, V] float32.
      sampler: The filters; temperature 0 divides by nothing.
      seen: [B, V] bool, tokens that occurred; needed for a repetition penalty.

    Returns:
      [B, V].
    """
    if sampler.repetition_penalty != 1:
        assert seen is not None, 'a repetition penalty needs the tokens seen'
        logits = penalize(logits, seen, penalty=sampler.repetition_penalty)
    if sampler.temperature > 0:
        logits = logits / sampler.temperature
    if sampler.top_k:
        logits = keep_top_k(logits, top_k=sampler.top_k)
    if sampler.top_p < 1:
        logits = keep_top_p(logits, top_p=sampler.top_p)
    return logits


def sample(keys: jax.Array, logits: jax.Array, sampler: Sampler) -> jax.Array:
    """Draws a token per row with that row's key: [B] keys, [B, V] logits to [B].

    By inversion: first a block of tokens by its probability, then a token of it. That
    takes two random numbers a row, where the maximum of logits and Gumbel noise takes
    V, which cost more than all else that is done with logits.
    """
    if sampler.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    rows, count = logits.shape
    blocks = -(-count // BLOCK)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.pad(weights, ((0, 0), (0, blocks * BLOCK - count)))
    weights = weights.reshape(rows, blocks, BLOCK)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    # Where devices have parts of V, these few numbers are all that they exchange.
    sums = transformer.constrain(jnp.sum(weights, axis=-1), transformer.BATCH, None)
    block = _draw(sums, uniform[:, 0])
    of_block = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    of_block = transformer.constrain(of_block, transformer.BATCH, None)
    return block * BLOCK + _draw(of_block, uniform[:, 1])


def _draw(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """An index per row by weights [B, N] and numbers [B] in [0, 1): [B] int32."""
    mass = jnp.cumsum(weights, axis=-1)
    beyond = mass > uniform[:, None] * mass[:, -1:]
    # The first beyond, and whatever sums are rounded to, never one without weight.
    rank = jnp.where(weights > 0, 1 + beyond, 0)
    return jnp.argmax(rank, axis=-1).astype(jnp.int32)
