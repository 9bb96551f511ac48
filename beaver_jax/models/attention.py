"""Rotary positions, masks, the KV cache and the choice of the attention kernel.

Axes: B batch, T query time, S key time, N query heads, H kv heads, A head dim.
"""

from flax import struct
import jax
import jax.numpy as jnp

from beaver_jax.models import config as config_lib


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far; an argument and a result.

    One pair of arrays per layer, not one stacked array: each is updated in place
    inside a decoding loop, and no step slices a layer out of a larger buffer. Heads
    stand before time, as the matmuls of a decoding step want them: no transposition.
    """

    keys: tuple[jax.Array, ...]  # L of [B, H, S, A]
    values: tuple[jax.Array, ...]  # L of [B, H, S, A]
    mask: jax.Array  # [B, S] bool, True where a real token was written
    index: jax.Array  # [] int32, where the next token goes, in every row


def init_cache(config: config_lib.TransformerConfig, rows: int, length: int) -> Cache:
    """Returns an empty cache for `rows` sequences of at most `length` tokens."""
    shape = (rows, config.num_kv_heads, length, config.head_dim)
    return Cache(
        keys=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)),
        values=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)),
        mask=jnp.zeros((rows, length), bool),
        index=jnp.zeros((), jnp.int32),
    )


def positions_from_mask(mask: jax.Array) -> jax.Array:
    """Positions of tokens, [B, T] int32: the count of real tokens before each.

    So left padding, right padding and none give a token the same position. Padding
    after a row's end counts on, as in safe-rlhf, whose token-wise losses score it.
    """
    index = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
    counts = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    # Padding so far, as seen from the last real token.
    skipped = jax.lax.cummax(jnp.where(mask, index + 1 - counts, 0), axis=1)
    return index - skipped


def rotations(
    positions: jax.Array, *, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, for all layers and heads.

    Args:
      positions: [B, T] int32.
      head_dim: A.
      theta: Base of the frequencies θ^(-2i/A).

    Returns:
      (cosines, sines), [B, 1, T, A/2] float32 each.
    """
    half = head_dim // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, None, :, None] * frequencies.reshape(1, 1, 1, half)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary position embedding over half-split pairs (Su et al., arXiv 2104.09864).

    Args:
      x: [B, heads, T, A].
      angles: Of `rotations`.

    Returns:
      [B, heads, T, A], of the type of x; rotated in float32.
    """
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attention_mask(
    key_mask: jax.Array, query_start: jax.Array | int, query_length: int
) -> jax.Array:
    """Who sees whom, [B, T, S]: real tokens at or before the query.

    A query before which there is none sees itself: a row without any key would be a
    softmax over nothing, NaN with some kernels.

    Args:
      key_mask: [B, S] bool, True at real tokens.
      query_start: Place of the first query among the keys.
      query_length: T.
    """
    queries = query_start + jnp.arange(query_length)[:, None]  # [T, 1]
    keys = jnp.arange(key_mask.shape[1])[None, :]  # [1, S]
    seen = (keys <= queries)[None] & key_mask[:, None, :]
    alone = ~jnp.any(seen, axis=-1, keepdims=True)
    return seen | ((keys == queries)[None] & alone)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Scaled dot-product attention with grouped heads.

    cuDNN's fused kernel where it can, XLA elsewhere; jax.nn would not choose cuDNN
    by itself.

    Args:
      q: [B, N, T, A].
      k: [B, H, S, A], H divides N.
      v: [B, H, S, A].
      mask: [B, T, S] bool.

    Returns:
      [B, N, T, A].
    """
    if jax.default_backend() == 'gpu' and _fits_cudnn(q, k):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask[:, None], implementation='cudnn'
        ).swapaxes(1, 2)
    return _attend_xla(q, k, v, mask)


def _fits_cudnn(q, k) -> bool:
    """16 bits, head dim a multiple of 8 up to 128, even lengths: cuDNN's limits."""
    return (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] <= 128
        and q.shape[-1] % 8 == 0
        and q.shape[2] % 2 == 0
        and k.shape[2] % 2 == 0
    )


def _attend_xla(q, k, v, mask):
    rows, heads, queries, width = q.shape
    kv_heads = k.shape[1]
    # The query heads of one kv head stand side by side: more rows of one matmul.
    q = q.reshape(rows, kv_heads, -1, width)
    logits = jnp.einsum('BHQA,BHSA->BHQS', q, k, preferred_element_type=jnp.float32)
    logits = logits.reshape(rows, heads, queries, -1)
    logits = jnp.where(mask[:, None], logits * width**-0.5, -1e30)
    # softmax(l)·v = (e^(l - max)·v) / Σe^(l - max), divided after the matmul, where
    # there is less to divide. The maximum cancels: no gradient flows through it.
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)  # [B, N, T, 1] float32
    weights = weights.astype(v.dtype).reshape(rows, kv_heads, -1, k.shape[2])
    out = jnp.einsum('BHQS,BHSA->BHQA', weights, v, preferred_element_type=jnp.float32)
    out = out.reshape(rows, heads, queries, width) / total
    return out.astype(v.dtype)
