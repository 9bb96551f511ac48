"""From logits to a token. Axes: B rows, V vocabulary, K alternatives."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.models import blocks

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


class ByRow(struct.PyTreeNode):
    """A `Sampler` for each row, where a server's requests are decoded together."""

    temperature: jax.Array  # [B] float32
    top_k: jax.Array  # [B] int32
    top_p: jax.Array  # [B] float32
    repetition_penalty: jax.Array  # [B] float32
    shows: jax.Array  # [B] bool, rows whose alternatives somebody wants
    alternatives: int = struct.field(pytree_node=False, default=0)  # K

    @classmethod
    def of(
        cls, samplers: Sequence[Sampler], shows: Sequence[bool], alternatives: int
    ) -> 'ByRow':
        """Of B samplers; as NumPy."""

        def column(name: str, dtype: type) -> Any:
            return np.array([getattr(one, name) for one in samplers], dtype)

        shown: Any = np.array(shows, bool)
        return cls(
            temperature=column('temperature', np.float32),
            top_k=column('top_k', np.int32),
            top_p=column('top_p', np.float32),
            repetition_penalty=column('repetition_penalty', np.float32),
            shows=shown,
            alternatives=alternatives,
        )


def penalize(
    logits: jax.Array, seen: jax.Array, *, penalty: float | jax.Array
) -> jax.Array:
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
    """Draws a token per row with that row's key: [B] keys, [B, V] logits to [B]."""
    if sampler.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return _by_inversion(keys, logits)


def _by_inversion(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """First a block of tokens by its probability, then a token of it.

    That takes two random numbers a row, where the maximum of logits and Gumbel noise
    takes V, which cost more than all else that is done with logits.
    """
    rows, count = logits.shape
    parts = -(-count // BLOCK)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.pad(weights, ((0, 0), (0, parts * BLOCK - count)))
    weights = weights.reshape(rows, parts, BLOCK)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    # Where devices have parts of V, these few numbers are all that they exchange.
    sums = blocks.constrain(jnp.sum(weights, axis=-1), blocks.BATCH, None)
    block = _draw(sums, uniform[:, 0])
    of_block = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    of_block = blocks.constrain(of_block, blocks.BATCH, None)
    return block * BLOCK + _draw(of_block, uniform[:, 1])


def _draw(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """An index per row by weights [B, N] and numbers [B] in [0, 1): [B] int32."""
    mass = jnp.cumsum(weights, axis=-1)
    beyond = mass > uniform[:, None] * mass[:, -1:]
    # The first beyond, and whatever sums are rounded to, never one without weight.
    rank = jnp.where(weights > 0, 1 + beyond, 0)
    return jnp.argmax(rank, axis=-1).astype(jnp.int32)


def filter_by_row(
    logits: jax.Array, rows: ByRow, seen: jax.Array, alive: jax.Array
) -> jax.Array:
    """`filter_logits` of each row's own sampler.

    Nothing is sorted, and nothing penalized, unless a living row needs it; a row's
    logits are the same in either case.

    Args:
      logits: [B, V] float32.
      rows: B samplers.
      seen: [B, V] bool.
      alive: [B] bool, rows that count.
    """
    greedy = rows.temperature == 0
    penalty = rows.repetition_penalty
    logits = jax.lax.cond(
        jnp.any(alive & (penalty != 1)),
        lambda: penalize(logits, seen, penalty=penalty[:, None]),
        lambda: logits,
    )
    logits = logits / jnp.where(greedy, 1.0, rows.temperature)[:, None]
    # The likeliest token is in every filter.
    filtered = alive & ~greedy & ((rows.top_k > 0) | (rows.top_p < 1))
    return jax.lax.cond(
        jnp.any(filtered),
        lambda: jnp.where(filtered[:, None], _keep_by_row(logits, rows), logits),
        lambda: logits,
    )


def _keep_by_row(logits: jax.Array, rows: ByRow) -> jax.Array:
    """Top-k and, of what that leaves, top-p of each row, by one sort."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    size = logits.shape[-1]
    last = jnp.where(rows.top_k > 0, jnp.minimum(rows.top_k, size), size) - 1
    smallest = jnp.take_along_axis(ordered, last[:, None], axis=1)
    kept = ordered >= smallest
    probs = jax.nn.softmax(ordered, axis=-1, where=kept)
    before = jnp.cumsum(probs, axis=-1) - probs
    top_p = rows.top_p[:, None]
    kept &= (before < top_p) | (top_p == 1)
    smallest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < smallest, -jnp.inf, logits)


def sample_by_row(keys: jax.Array, logits: jax.Array, rows: ByRow) -> jax.Array:
    """`sample` of each row's own sampler."""
    drawn = _by_inversion(keys, logits)
    likeliest = jnp.argmax(logits, axis=-1)
    return jnp.where(rows.temperature == 0, likeliest, drawn).astype(jnp.int32)


def alternatives(
    logits: jax.Array, rows: ByRow, alive: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The K likeliest tokens of each row, if a living row shows them; else zeros.

    Returns:
      ([B, K] int32, [B, K] float32 log-probabilities), the likeliest first.
    """
    shape = (logits.shape[0], rows.alternatives)

    def find():
        logps, tokens = jax.lax.top_k(jax.nn.log_softmax(logits), rows.alternatives)
        return tokens.astype(jnp.int32), logps

    return jax.lax.cond(
        jnp.any(alive & rows.shows),
        find,
        lambda: (jnp.zeros(shape, jnp.int32), jnp.zeros(shape, logits.dtype)),
    )
