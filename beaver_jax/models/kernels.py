"""Fused attention of accelerators: cuDNN on NVIDIA GPUs, Pallas splash on TPUs.

Neither keeps the weights [B, N, T, S]. Each has limits that its `fits_` function
knows. On a mesh each device works on whole rows and heads of its own: to XLA's
partitioner a kernel is a box, for which it would gather all of them.

Axes: B batch, T query time, S key time, N query heads, H kv heads, A head dim.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import struct
import jax
from jax.experimental.pallas.ops.tpu import splash_attention
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

BATCH = ('data', 'fsdp')
LANES = 128  # splash's blocks are multiples of a TPU's lanes
BLOCKS = (512, 256, 128)  # of queries and keys; larger ones do more at a time


class Pattern(struct.PyTreeNode):
    """Who sees whom in a pass without a cache, in terms of splash.

    A query sees the keys of its own number that are not after it and, in a windowed
    layer, are near.
    """

    queries: jax.Array  # [B, T] int32
    keys: jax.Array  # [B, T] int32
    windowed: jax.Array | bool = False  # this layer is
    window: int | None = struct.field(pytree_node=False, default=None)
    mixed: bool = struct.field(pytree_node=False, default=False)  # not all layers are


def pattern(
    seen: jax.Array, mask: jax.Array, segments: jax.Array | None = None
) -> Pattern:
    """The pattern of `attention.attention_mask`, but for queries without a real token.

    Padding after tokens sees those of its segment and is not seen. Padding before any
    sees the padding before it, not itself alone; nothing reads what comes of it.

    Args:
      seen: [B, T, T] bool, of `attention_mask`.
      mask: [B, T] bool, True at real tokens.
      segments: [B, T] int32, not negative, or None for one segment a row.
    """
    numbers = jnp.ones_like(mask, jnp.int32) if segments is None else segments + 1
    sees_any = jnp.any(seen & mask[:, None, :], axis=-1)
    return Pattern(jnp.where(sees_any, numbers, 0), jnp.where(mask, numbers, 0))


def fits_cudnn(q: jax.Array, k: jax.Array) -> bool:
    """16 bits, head dim a multiple of 8 up to 128, even lengths: cuDNN's limits."""
    return (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] <= 128
        and q.shape[-1] % 8 == 0
        and q.shape[2] % 2 == 0
        and k.shape[2] % 2 == 0
        and _divides(q, k)
    )


def _divides(q: jax.Array, k: jax.Array) -> bool:
    """The mesh divides rows and kv heads."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return True
    tensor = mesh.shape['tensor']
    return q.shape[0] % (mesh.size // tensor) == 0 and k.shape[1] % tensor == 0


def _on_each_device(attend: Callable[..., jax.Array], *specs: Any) -> Any:
    """Of (q, k, v, …), the rest spread as given, to whole rows and heads."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend
    heads = P(BATCH, 'tensor')
    return jax.shard_map(
        attend,
        in_specs=(heads, heads, heads, *specs),
        out_specs=heads,
        check_vma=False,
    )


def lowers_cudnn() -> bool:
    """Whether jax is willing to lower for cuDNN.

    Without the library, as on most machines without a GPU, it is not. On a machine
    with a GPU that is an error, which is left to whoever asks for the kernel.
    """
    if jax.default_backend() == 'gpu':
        return True
    x = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    ask = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    try:
        jax.eval_shape(ask, x, x, x)
    except RuntimeError:
        return False
    return True


def cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, *, scale: float
) -> jax.Array:
    """Arguments as of `attention.attend`, with the mask as [B, 1, T, S]."""

    def run(q, k, v, mask):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        out = jax.nn.dot_product_attention(
            q, k, v, mask=mask, scale=scale, implementation='cudnn'
        )
        return out.swapaxes(1, 2)

    return _on_each_device(run, P(BATCH))(q, k, v, mask)


def fits_splash(q: jax.Array, k: jax.Array) -> bool:
    """Lengths in whole blocks, and rows and kv heads that the mesh divides."""
    length, width = q.shape[2:]
    return (
        length == k.shape[2]
        and length % LANES == 0
        and width % 16 == 0
        and _divides(q, k)
    )


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    seen: Pattern,
    *,
    scale: float,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention.

    Args:
      q: [B, N, T, A].
      k: [B, H, T, A].
      v: [B, H, T, A].
      seen: Who sees whom.
      scale: Multiplies the logits.
      softcap: Bounds them.
      interpret: Runs the kernel step by step, on any machine.

    Returns:
      [B, N, T, A].
    """

    def run(q, k, v, seen):
        attend = functools.partial(
            _splash, softcap=softcap, interpret=interpret, ids=(seen.queries, seen.keys)
        )
        near = functools.partial(attend, window=seen.window)
        if seen.window is None:
            return attend(q, k, v)
        if not seen.mixed:
            return near(q, k, v)
        return jax.lax.cond(seen.windowed, near, attend, q, k, v)

    rows = P(BATCH)
    specs = seen.replace(queries=rows, keys=rows, windowed=P())
    q = q * jnp.asarray(scale, q.dtype)
    return _on_each_device(run, specs)(q, k, v, seen)


def _splash(q, k, v, *, ids, softcap, interpret, window=None):
    heads, length = q.shape[1:3]
    size = next(size for size in BLOCKS if length % size == 0)
    shape = (length, length)
    one = (
        splash_attention.CausalMask(shape)
        if window is None
        else splash_attention.LocalMask(shape, (window - 1, 0), 0)
    )
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([one] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=size,
            block_kv=size,
            block_q_dkv=size,
            block_kv_dkv=size,
            block_q_dq=size,
            block_kv_dq=size,
        ),
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    return jax.vmap(kernel)(q, k, v, splash_attention.SegmentIds(*ids))
