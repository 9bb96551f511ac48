"""Masks, the KV cache and the choice of the attention kernel.

Axes: B batch, T query time, S key time, N query heads, H kv heads, A head dim.
"""

from flax import struct
import jax
import jax.numpy as jnp

from beaver_jax.models import config as config_lib
from beaver_jax.models import kernels
from beaver_jax.models import positions

BLOCKS = 4  # of queries, in a pass without a cache
SHORTEST = 64  # queries of a block: shorter ones were no faster (benchmarks)


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far; an argument and a result.

    One pair of arrays per layer, not one stacked array: each is updated in place
    inside a decoding loop, and no step slices a layer out of a larger buffer. Heads
    stand before time, as the matmuls of a decoding step want them: no transposition.
    """

    keys: tuple[jax.Array, ...]  # L of [B, H, S, A]
    values: tuple[jax.Array, ...]  # L of [B, H, S, A]
    mask: jax.Array  # [B, S] bool, True where a real token was written
    # [] int32, where the next token goes, in every row. After the last place comes the
    # first again: what stands there must be needed no more.
    index: jax.Array


def init_cache(config: config_lib.TransformerConfig, rows: int, length: int) -> Cache:
    """Returns an empty cache for `rows` sequences of at most `length` tokens."""
    shape = (rows, config.num_kv_heads, length, config.head_dim)
    return Cache(
        keys=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)),
        values=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)),
        mask=jnp.zeros((rows, length), bool),
        index=jnp.zeros((), jnp.int32),
    )


def lengthen(cache: Cache, places: int) -> Cache:
    """A full cache with empty places after it, where the next tokens go."""

    def pad(x):
        return jnp.pad(x, ((0, 0), (0, 0), (0, places), (0, 0)))

    return Cache(
        keys=tuple(map(pad, cache.keys)),
        values=tuple(map(pad, cache.values)),
        mask=jnp.pad(cache.mask, ((0, 0), (0, places))),
        index=jnp.int32(cache.mask.shape[1]),
    )


def insert(cache: Cache, other: Cache, slots: jax.Array) -> Cache:
    """Rows of another cache take places among the rows, each ending at the index.

    Args:
      cache: B rows of S places.
      other: R rows of at most S places.
      slots: [R] int32, the row of `cache` that each becomes; one past the last is
        dropped.
    """
    room = cache.mask.shape[1] - other.mask.shape[1]
    shift = cache.index - other.index

    def put(rows, new, axis):
        padding = [(0, room * (i == axis)) for i in range(new.ndim)]
        turned = jnp.roll(jnp.pad(new, padding), shift, axis)
        return rows.at[slots].set(turned, mode='drop')

    def put_layer(rows, new):
        return put(rows, new, 2)

    return cache.replace(
        keys=tuple(map(put_layer, cache.keys, other.keys)),
        values=tuple(map(put_layer, cache.values, other.values)),
        mask=put(cache.mask, other.mask, 1),
    )


class Context(struct.PyTreeNode):
    """What the layers of one pass share: where tokens stand, and who sees whom."""

    angles: tuple[jax.Array, jax.Array] | None  # [B, 1, T, R/2], R rotated dimensions
    mask: jax.Array  # [B, T, S] bool
    near: jax.Array | None  # [B, T, S] bool, of windowed layers
    bias: jax.Array | None  # [B, N, 1, S] float32, added to the logits
    pattern: kernels.Pattern | None = None  # the masks once more; without a cache

    def of_layer(self, windowed: bool | jax.Array) -> 'Context':
        """With the mask of one layer."""
        if self.near is None:
            return self
        if isinstance(windowed, bool):
            mask = self.near if windowed else self.mask
        else:
            mask = jnp.where(windowed, self.near, self.mask)
        pattern = self.pattern and self.pattern.replace(windowed=windowed)
        return self.replace(mask=mask, near=None, pattern=pattern)

    def of_queries(self, wanted: positions.Wanted) -> 'Context':
        """For the wanted queries, of one layer; kernels that are for all know none."""
        if wanted is None:
            return self
        angles = jax.tree.map(lambda x: positions.at(x, wanted, axis=2), self.angles)
        mask = positions.at(self.mask, wanted)
        return self.replace(angles=angles, mask=mask, pattern=None)


def ages(query_start: jax.Array | int, queries: int, keys: int) -> jax.Array:
    """How many places before the query each key was written, [T, S] int32.

    Places are a ring of S: a key after the query is of the round before.

    Args:
      query_start: Place of the first query among the keys.
      queries: T.
      keys: S.
    """
    places = query_start + jnp.arange(queries)[:, None]
    return (places - jnp.arange(keys)[None]) % keys


def attention_mask(
    key_mask: jax.Array, age: jax.Array, segments: jax.Array | None = None
) -> jax.Array:
    """Who sees whom, [B, T, S]: real tokens at or before the query, in its segment.

    A query before which there is none sees itself: a row without any key would be a
    softmax over nothing, NaN with some kernels.

    Args:
      key_mask: [B, S] bool, True at real tokens.
      age: [T, S], of `ages`.
      segments: [B, S], of queries and keys alike, T = S; None for one segment a row.
    """
    queries, keys = age.shape
    # The oldest places are those of the pass's own later tokens.
    later = keys - jnp.arange(queries - 1, -1, -1)[:, None]  # [T, 1]
    seen = (age < later)[None] & key_mask[:, None, :]
    if segments is not None:
        seen &= segments[:, :, None] == segments[:, None, :]
    alone = ~jnp.any(seen, axis=-1, keepdims=True)
    return seen | ((age == 0)[None] & alone)


def near_mask(mask: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """Of those seen, [B, T, S], the ones among the last `window` tokens.

    Places are counted, not real tokens: padding stands only at a row's ends.
    """
    return mask & (age < window)[None]


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: jax.Array | None = None,
    pattern: kernels.Pattern | None = None,
) -> jax.Array:
    """Scaled dot-product attention with grouped heads.

    A program that is lowered for CUDA or a TPU, on whatever machine, has its fused
    kernel where the shape allows, and all else is left to XLA.

    Args:
      q: [B, N, T, A].
      k: [B, H, S, A], H divides N.
      v: [B, H, S, A].
      mask: [B, T, S] bool. Where T = S nobody sees later tokens (`attention_mask`).
      scale: Multiplies the logits; None is 1/√A.
      softcap: Bounds them, as c·tanh(x/c).
      bias: [B, N, 1, S], added to them.
      pattern: What the mask says, in terms of splash; None is never for splash.

    Returns:
      [B, N, T, A].
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def xla(q, k, v, mask, pattern):
        return _attend_causal(q, k, v, mask, scale, softcap, bias)

    def cudnn(q, k, v, mask, pattern):
        return kernels.cudnn(q, k, v, mask[:, None], scale=scale)

    def splash(q, k, v, mask, pattern):
        return kernels.splash(q, k, v, pattern, scale=scale, softcap=softcap)

    fused = {}
    plain = bias is None and softcap is None
    if plain and kernels.fits_cudnn(q, k) and kernels.lowers_cudnn():
        fused['cuda'] = cudnn
    if bias is None and pattern is not None and kernels.fits_splash(q, k):
        fused['tpu'] = splash
    if not fused:
        return xla(q, k, v, mask, pattern)
    # All are traced, one is lowered.
    return jax.lax.platform_dependent(q, k, v, mask, pattern, **fused, default=xla)


def _attend_causal(q, k, v, mask, scale, softcap, bias):
    """By blocks of queries, where these are the keys' tokens.

    A block leaves out the keys after its end: of four blocks three eighths of the work,
    and what is worked on at a time is nearer to a cache's size.
    """
    length = q.shape[2]
    if length != k.shape[2]:
        return _attend_xla(q, k, v, mask, scale, softcap, bias)
    blocks = min(BLOCKS, max(1, length // SHORTEST))
    size = -(-length // blocks)
    out = []
    for start in range(0, length, size):
        end = min(start + size, length)
        some = mask[:, start:end, :end]
        near = bias if bias is None else bias[..., :end]
        seen = (k[:, :, :end], v[:, :, :end])
        out.append(_attend_xla(q[:, :, start:end], *seen, some, scale, softcap, near))
    return jnp.concatenate(out, axis=2)


def _attend_xla(q, k, v, mask, scale, softcap, bias):
    rows, heads, queries, width = q.shape
    kv_heads = k.shape[1]
    # The query heads of one kv head stand side by side: more rows of one matmul.
    q = q.reshape(rows, kv_heads, -1, width)
    logits = jnp.einsum('BHQA,BHSA->BHQS', q, k, preferred_element_type=jnp.float32)
    logits = logits.reshape(rows, heads, queries, -1) * scale
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if bias is not None:
        logits = logits + bias
    logits = jnp.where(mask[:, None], logits, -1e30)
    # softmax(l)·v = (e^(l - max)·v) / Σe^(l - max), divided after the matmul, where
    # there is less to divide. The maximum cancels: no gradient flows through it.
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)  # [B, N, T, 1] float32
    weights = weights.astype(v.dtype).reshape(rows, kv_heads, -1, k.shape[2])
    out = jnp.einsum('BHQS,BHSA->BHQA', weights, v, preferred_element_type=jnp.float32)
    out = out.reshape(rows, heads, queries, width) / total
    return out.astype(v.dtype)
