"""Frozen kernels in 8 or 4 bits, weights only: W ≈ q·s, symmetric, s by column.

Eight bits have one s for a column, q = round(W / s) with s = max|W| / 127. Four bits
have one for every 64 rows of it, with max|W| / 7, and two values share a byte. Only the
kernels of the layers are quantized; embeddings, heads, biases, norms and whatever
learns keep their types. Activations stay as they are: a product reads the few bits and
computes in the model's dtype.

Libraries that quantize a model from outside patch JAX's primitives while it runs; here
`Linear` takes the quantized leaves for what they are.
"""

from collections.abc import Callable, Mapping
import math
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

KINDS = ('none', 'int8', 'int4')
INT8, INT4, SCALE = LEAVES = 'kernel_int8', 'kernel_int4', 'kernel_scale'
GROUP = 64  # rows of one s, in four bits
QUANTIZED = re.compile(r'(backbone/)?layers/.+/kernel')


def quantize(kernel: jax.Array, kind: str) -> dict[str, jax.Array]:
    """The leaves that stand for a kernel.

    Args:
      kernel: [..., in, out].
      kind: 'int8' or 'int4'.

    Returns:
      kernel_int8 [..., in, out] or kernel_int4 [..., in / 2, out], and float32
      kernel_scale [..., groups, out].

    Raises:
      ValueError: Another kind; four bits of an odd number of rows.
    """
    if kind not in KINDS[1:]:
        raise ValueError(f'{kind!r} is no kind of few bits; use int8 or int4.')
    *layers, inner, outer = kernel.shape
    size, top = (inner, 127) if kind == 'int8' else (math.gcd(inner, GROUP), 7)
    if kind == 'int4' and inner % 2:
        raise ValueError(f'{inner} rows cannot share bytes two by two; use int8.')
    groups = kernel.astype(jnp.float32).reshape(*layers, inner // size, size, outer)
    largest = jnp.max(jnp.abs(groups), axis=-2, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / top
    q = jnp.round(groups / scale).astype(jnp.int8).reshape(*layers, inner, outer)
    scale = scale[..., 0, :]
    if kind == 'int8':
        return {INT8: q, SCALE: scale}
    # Row 2i is the low half of byte i, row 2i + 1 the high half.
    low, high = q[..., 0::2, :] & 0xF, q[..., 1::2, :] << 4
    return {INT4: low | high, SCALE: scale}


def dequantize(leaves: dict[str, jax.Array], dtype: Any) -> jax.Array:
    """The kernel [..., in, out] that leaves of `quantize` stand for."""
    scale = leaves[SCALE]
    if INT8 in leaves:
        q = leaves[INT8]
    else:
        packed = leaves[INT4]
        # Arithmetic shifts keep the sign.
        halves = jnp.stack([(packed << 4) >> 4, packed >> 4], axis=-2)
        q = halves.reshape(*packed.shape[:-2], 2 * packed.shape[-2], -1)
    groups = q.reshape(*scale.shape[:-1], -1, q.shape[-1]).astype(dtype)
    return (groups * scale[..., None, :].astype(dtype)).reshape(q.shape)


def quantized(params: dict[str, Any], kind: str) -> dict[str, Any]:
    """Parameters with the layers' kernels in few bits.

    Raises:
      ValueError: See `quantize`.
    """
    return replaced(params, lambda kernel, _: quantize(kernel, kind))


def replaced(
    params: Mapping[str, Any],
    convert: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Parameters with other leaves in place of the layers' kernels.

    Args:
      params: Nested; other leaves stay.
      convert: (kernel, module of `beside`) to leaves by name.
      beside: A tree of the result's structure, such as its shardings.
    """
    new: dict[tuple[str, ...], Any] = {}
    for path, leaf in traverse_util.flatten_dict(dict(params)).items():
        if not QUANTIZED.fullmatch('/'.join(path)):
            new[path] = leaf
            continue
        module: Any = beside or {}
        for name in path[:-1]:
            module = module.get(name, {})
        theirs = {name: x for name, x in module.items() if name in LEAVES}
        new |= {(*path[:-1], name): x for name, x in convert(leaf, theirs).items()}
    return traverse_util.unflatten_dict(new)


def product(x: jax.Array, leaves: dict[str, jax.Array], dtype: Any) -> jax.Array:
    """x·W, [..., in] to [..., out], of the kernel that leaves stand for."""
    if INT8 not in leaves:
        return x @ dequantize(leaves, dtype)
    # One s a column: it scales the product, and W is nowhere written out.
    scale = leaves[SCALE].astype(dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return (x @ leaves[INT8].astype(dtype)) * scale


def kernels(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes [(L,) in, out] of kernels, quantized or not, by their modules' paths."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items():
        module, _, name = path.rpartition('/')
        if name in ('kernel', INT8):
            found[module] = tuple(leaf.shape)
        elif name == INT4:
            *layers, half, outer = leaf.shape
            found[module] = (*layers, 2 * half, outer)
    return found


def widened(params: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Parameters with kernels of that type in place of the quantized ones."""
    flat = traverse_util.flatten_dict(params)
    wide = {}
    for path, leaf in flat.items():
        if path[-1] in (INT8, INT4):
            scale = flat[*path[:-1], SCALE]
            leaves = {path[-1]: leaf, SCALE: scale}
            wide[*path[:-1], 'kernel'] = dequantize(leaves, dtype)
        elif path[-1] != SCALE:
            wide[path] = leaf
    return traverse_util.unflatten_dict(wide)
