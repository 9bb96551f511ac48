"""What a layer is made of: attention and a feed-forward, around a residual stream.

Axes: B batch, T time, D model, N query heads, H kv heads, A head dim.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
from jax.sharding import PartitionSpec as P

from beaver_jax.models import attention
from beaver_jax.models import config as config_lib
from beaver_jax.models import kernels
from beaver_jax.models import modules
from beaver_jax.models import positions

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'silu': nn.silu,
    'gelu': functools.partial(nn.gelu, approximate=False),
    'gelu_tanh': functools.partial(nn.gelu, approximate=True),
    'relu': nn.relu,
}
BATCH = kernels.BATCH


def constrain(x: jax.Array, *spec) -> jax.Array:
    """Pins the sharding of an activation, where a mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*spec))


class Attention(nn.Module):
    """Causal self-attention, with or without a cached past."""

    config: config_lib.TransformerConfig

    @nn.compact
    def __call__(self, x, context, past=None, index=None, wanted=None):
        """Maps [B, T, D] to [B, T, D]; returns also the keys and values written.

        Only `wanted` queries are asked; see `positions.Wanted`.
        """
        c = self.config
        linear = functools.partial(modules.Linear, dtype=c.dtype, std=c.init_std)

        def by_head(x, context, heads, name):
            y = linear(heads * c.head_dim, bias=c.qkv_bias, name=name)(x)
            y = y.reshape(*x.shape[:2], heads, c.head_dim).swapaxes(1, 2)
            if c.qk_norm and name != 'v':
                y = modules.RMSNorm(
                    c.norm_eps, c.dtype, c.norm_offset, name=f'{name}_norm'
                )(y)
            if context.angles is None or name == 'v':
                return y
            return positions.rotate(y, context.angles, interleaved=c.rope_interleaved)

        asking = context.of_queries(wanted)
        q = by_head(positions.at(x, wanted), asking, c.num_heads, 'q')  # [B, N, T, A]
        k = by_head(x, context, c.num_kv_heads, 'k')  # [B, H, T, A]
        v = by_head(x, context, c.num_kv_heads, 'v')
        if past is not None:
            start = (0, 0, index, 0)
            k = jax.lax.dynamic_update_slice(past[0], k, start)
            v = jax.lax.dynamic_update_slice(past[1], v, start)
            k = constrain(k, BATCH, 'tensor', None, None)
            v = constrain(v, BATCH, 'tensor', None, None)
        out = attention.attend(
            q,
            k,
            v,
            asking.mask,
            scale=c.attention_scale,
            softcap=c.attention_softcap,
            bias=context.bias,
            pattern=asking.pattern,
        )
        out = out.swapaxes(1, 2).reshape(out.shape[0], out.shape[2], -1)
        return linear(c.embed_dim, bias=c.o_bias, name='o')(out), (k, v)


class Mlp(nn.Module):
    """down(f(up(x))), or gated: down(f(gate(x)) · up(x)) (arXiv 2002.05202)."""

    config: config_lib.TransformerConfig

    @nn.compact
    def __call__(self, x):
        """Maps [B, T, D] to [B, T, D]."""
        c = self.config
        linear = functools.partial(
            modules.Linear, bias=c.mlp_bias, dtype=c.dtype, std=c.init_std
        )
        activation = ACTIVATIONS[c.activation]
        up = linear(c.mlp_dim, name='up')(x)
        if c.gated:
            up = activation(linear(c.mlp_dim, name='gate')(x)) * up
        else:
            up = activation(up)
        return linear(c.embed_dim, name='down')(up)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); or as the config has it."""

    config: config_lib.TransformerConfig

    @nn.compact
    def __call__(self, x, context, past=None, index=None, wanted=None):
        """Maps [B, T, D] to [B, T, D]; returns also this layer's keys and values.

        The stream goes on where it is `wanted`; see `positions.Wanted`.
        """
        c = self.config
        attend, mlp = Attention(c, name='attention'), Mlp(c, name='mlp')
        attention_norm = modules.norm(c, 'attention_norm')

        def normed(x):
            return attention_norm(x) if c.norm_first else x

        h = normed(x)
        mixed, written = attend(h, context, past, index, wanted)
        x, h = positions.at(x, wanted), positions.at(h, wanted)
        if c.residual != 'sequential':
            # One norm serves both, or each has its own.
            shared = c.residual == 'parallel_shared_norm'
            x = x + mixed + mlp(h if shared else modules.norm(c, 'mlp_norm')(x))
        elif c.norm_first:
            if c.post_norms:
                mixed = modules.norm(c, 'attention_post_norm')(mixed)
            x = x + mixed
            fed = mlp(modules.norm(c, 'mlp_norm')(x))
            if c.post_norms:
                fed = modules.norm(c, 'mlp_post_norm')(fed)
            x = x + fed
        else:
            x = attention_norm(x + mixed)
            x = modules.norm(c, 'mlp_norm')(x + mlp(x))
        return constrain(x, BATCH, None, None), written
