"""Sums over the bits of arrays, which tell whether a copy of them is the same.

They are computed where the arrays are, whatever their shardings: each device reads its
own part once.
"""

from collections.abc import Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp

from beaver_jax import sharding


def of(tree: Any) -> dict[str, int]:
    """A number below 2³² by path, of arrays on one set of devices.

    Σ_i bits_i·(2i + 1) modulo 2³² over an array's elements, read as unsigned numbers.
    The weights are odd, so that a change of one element always changes the sum; a
    change of many leaves it with a probability of about 2⁻³².
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    if not leaves:
        return {}
    sums = sharding.to_host(_sums([leaf for _, leaf in leaves]))
    paths = [sharding.path_string(path) for path, _ in leaves]
    return dict(zip(paths, map(int, sums), strict=True))


def verify(then: Mapping[str, int], tree: Any) -> None:
    """Compares arrays with their sums; one without a sum is let through.

    Raises:
      ValueError: An array is not what it was.
    """
    different = [path for path, now in of(tree).items() if then.get(path, now) != now]
    if different:
        names = ', '.join(different[:3]) + (' …' if different[3:] else '')
        raise ValueError(f'other bits than were saved: {names}')


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(leaf: jax.Array) -> jax.Array:
    leaf = jax.device_put(leaf, jax.memory.Space.Device)  # it may wait on the host
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}')
    index = jnp.zeros((), jnp.uint32)
    for axis in range(leaf.ndim):
        # By axes, not flattened: no device needs another's part.
        stride = math.prod(leaf.shape[axis + 1 :]) % 2**32
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        index = index + along * jnp.uint32(stride)
    return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)
