"""What blocks are made of: linear maps, with or without adapters, and norms."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from beaver_jax.models import config as config_lib
from beaver_jax.models import lora
from beaver_jax.models import quantize


def padded_normal(std: float, padding: int, *, axis: int) -> Callable[..., jax.Array]:
    """Draws a fresh matrix as if its last rows or columns, the padding, were not there.

    So padding changes no number that is drawn.
    """

    def init(key, shape, dtype=jnp.float32):
        drawn = [n - padding * (i == axis) for i, n in enumerate(shape)]
        weights = nn.initializers.normal(std)(key, drawn, dtype)
        return jnp.pad(weights, [(0, padding * (i == axis)) for i in range(2)])

    return init if padding else nn.initializers.normal(std)


class Linear(nn.Module):
    """x·W + b over the last axis, with a low-rank adapter where there is one.

    The kernel may be quantized (`quantize.py`).
    """

    features: int
    bias: bool
    dtype: str
    std: float
    padding: int = 0  # of the features; they start at 0

    @nn.compact
    def __call__(self, x):
        """Maps [..., in] to [..., features]."""
        # One matmul over all rows: XLA's gradients of a kernel over several axes take
        # twice the time on CPUs.
        *rows, width = x.shape
        return self._flat(x.reshape(-1, width)).reshape(*rows, self.features)

    def _flat(self, x):
        held = [n for n in quantize.LEAVES if self.has_variable('params', n)]
        if held:
            few: Any = {name: self.get_variable('params', name) for name in held}
            y = quantize.product(x, few, self.dtype)
        else:
            init = padded_normal(self.std, self.padding, axis=1)
            kernel = self.param('kernel', init, (x.shape[-1], self.features))
            y = x @ kernel.astype(self.dtype)
        if self.has_variable('params', lora.A):
            a: jax.Array = self.get_variable('params', lora.A)
            b: jax.Array = self.get_variable('params', lora.B)
            y = y + (x @ a.astype(self.dtype)) @ b.astype(self.dtype)
        if self.bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None]
        return y


class RMSNorm(nn.Module):
    """x / rms(x) · (offset + scale), in float32 (arXiv 1910.07467)."""

    eps: float
    dtype: str
    offset: float = 0.0

    @nn.compact
    def __call__(self, x):
        """Keeps the shape."""
        init = nn.initializers.constant(1 - self.offset)
        scale = self.param('scale', init, (x.shape[-1],))
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.eps)
        if self.offset:  # Gemma scales before it rounds, LLaMA after
            return (normed * (self.offset + scale)).astype(self.dtype)
        return normed.astype(self.dtype) * scale.astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / std(x) · scale + bias, in float32 (arXiv 1607.06450)."""

    eps: float
    dtype: str

    @nn.compact
    def __call__(self, x):
        """Keeps the shape."""
        width = (1,) * (x.ndim - 1) + (-1,)
        scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
        bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.eps)
        return (normed * scale.reshape(width) + bias.reshape(width)).astype(self.dtype)


def norm(config: config_lib.TransformerConfig, name: str | None = None) -> nn.Module:
    """The config's normalization of the residual stream."""
    c = config
    if c.norm == 'layer':
        return LayerNorm(c.norm_eps, c.dtype, name=name)
    return RMSNorm(c.norm_eps, c.dtype, c.norm_offset, name=name)
