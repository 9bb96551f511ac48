"""The one decoder: RMSNorm, rotary grouped-query attention, gated feed-forward.

Axes: B batch, T time, L layers, D model, N query heads, H kv heads, A head dim,
F feed-forward, V vocabulary. Kernels are two-dimensional, [in, out]; the layers'
are stacked, [L, in, out], and scanned. Decoding with a cache unrolls the layers
instead, because a scan that returns the cache would copy it.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from beaver_jax.models import attention
from beaver_jax.models import config as config_lib

# Ordered; the first full match wins; an unmatched parameter is an error.
RULES = (
    (r'(backbone/)?embed/embedding', P('tensor', 'fsdp')),
    (r'(backbone/)?layers/attention/[qkv]/kernel', P(None, 'fsdp', 'tensor')),
    (r'(backbone/)?layers/attention/[qkv]/bias', P(None, 'tensor')),
    (r'(backbone/)?layers/attention/o/kernel', P(None, 'tensor', 'fsdp')),
    (r'(backbone/)?layers/mlp/(gate|up)/kernel', P(None, 'fsdp', 'tensor')),
    (r'(backbone/)?layers/mlp/(gate|up)/bias', P(None, 'tensor')),
    (r'(backbone/)?layers/mlp/down/kernel', P(None, 'tensor', 'fsdp')),
    (r'(backbone/)?layers/(attention/o|mlp/down)/bias', P(None, None)),
    (r'(backbone/)?layers/\w+_norm/scale', P(None, None)),
    (r'(backbone/)?final_norm/scale', P(None)),
    (r'lm_head/kernel', P('fsdp', 'tensor')),
    (r'score_head/kernel', P('fsdp', None)),
    (r'score_head/bias', P(None)),
)
BATCH = ('data', 'fsdp')


def constrain(x: jax.Array, *spec) -> jax.Array:
    """Pins the sharding of an activation, where a mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*spec))


def unstack(params: Any, config: config_lib.TransformerConfig) -> Any:
    """Parameters for a decoding loop: in the compute type, one subtree per layer.

    Every step of a loop would otherwise slice, and so copy, all layers. The result
    goes where the stacked parameters would, as long as there is a cache.
    """
    params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
    return params | {'layers': layer_list(params['layers'], config.num_layers)}


def layer_list(layers: Any, count: int) -> tuple[Any, ...]:
    """A subtree per layer, of stacked layers or of unstacked ones."""
    if isinstance(layers, tuple):
        return layers
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(count))


class Linear(nn.Module):
    """x·W + b over the last axis."""

    features: int
    bias: bool
    dtype: str
    std: float

    @nn.compact
    def __call__(self, x):
        """Maps [..., in] to [..., features]."""
        init = nn.initializers.normal(self.std)
        kernel = self.param('kernel', init, (x.shape[-1], self.features))
        y = x @ kernel.astype(self.dtype)
        if self.bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        return y


class RMSNorm(nn.Module):
    """x / rms(x) · scale, in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    eps: float
    dtype: str

    @nn.compact
    def __call__(self, x):
        """Keeps the shape."""
        scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.eps)).astype(self.dtype)
        return normed * scale.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Attention(nn.Module):
    """Causal self-attention, with or without a cached past."""

    config: config_lib.TransformerConfig

    @nn.compact
    def __call__(self, x, angles, mask, past=None, index=None):
        """Maps [B, T, D] to [B, T, D]; returns also the keys and values written."""
        c = self.config
        linear = functools.partial(
            Linear, bias=c.attention_bias, dtype=c.dtype, std=c.init_std
        )
        rows, length, _ = x.shape

        def by_head(heads, name):
            y = linear(heads * c.head_dim, name=name)(x)
            return y.reshape(rows, length, heads, c.head_dim).swapaxes(1, 2)

        q = attention.rotate(by_head(c.num_heads, 'q'), angles)  # [B, N, T, A]
        k = attention.rotate(by_head(c.num_kv_heads, 'k'), angles)  # [B, H, T, A]
        v = by_head(c.num_kv_heads, 'v')
        if past is not None:
            start = (0, 0, index, 0)
            k = jax.lax.dynamic_update_slice(past[0], k, start)
            v = jax.lax.dynamic_update_slice(past[1], v, start)
            k = constrain(k, BATCH, 'tensor', None, None)
            v = constrain(v, BATCH, 'tensor', None, None)
        out = attention.attend(q, k, v, mask).swapaxes(1, 2).reshape(rows, length, -1)
        return linear(c.embed_dim, name='o')(out), (k, v)


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer, arXiv 2002.05202)."""

    config: config_lib.TransformerConfig

    @nn.compact
    def __call__(self, x):
        """Maps [B, T, D] to [B, T, D]."""
        c = self.config
        linear = functools.partial(
            Linear, bias=c.mlp_bias, dtype=c.dtype, std=c.init_std
        )
        gate = nn.silu(linear(c.mlp_dim, name='gate')(x))
        return linear(c.embed_dim, name='down')(gate * linear(c.mlp_dim, name='up')(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    config: config_lib.TransformerConfig

    @nn.compact
    def __call__(self, x, angles, mask, past=None, index=None):
        """Maps [B, T, D] to [B, T, D]; returns also this layer's keys and values."""
        c = self.config
        norm = functools.partial(RMSNorm, c.norm_eps, c.dtype)
        mixed, written = Attention(c, name='attention')(
            norm(name='attention_norm')(x), angles, mask, past, index
        )
        x = x + mixed
        x = x + Mlp(c, name='mlp')(norm(name='mlp_norm')(x))
        return constrain(x, BATCH, None, None), written


class Decoder(nn.Module):
    """Token ids to hidden states."""

    config: config_lib.TransformerConfig

    def setup(self):
        """Declares the parameters; the layers' are stacked, [L, ...]."""
        c = self.config
        self.embed = nn.Embed(
            c.vocab_size,
            c.embed_dim,
            dtype=c.dtype,
            embedding_init=nn.initializers.normal(c.init_std),
        )
        given: Any = self.get_variable('params', 'layers')
        unstacked = isinstance(given, tuple)  # see `unstack`
        self.layers = given if unstacked else self.param('layers', self._init_layers)
        self.final_norm = RMSNorm(c.norm_eps, c.dtype)

    def _init_layers(self, key):
        c = self.config
        example = (
            jnp.zeros((1, 1, c.embed_dim), c.dtype),
            self._angles(jnp.zeros((1, 1), jnp.int32)),
            jnp.ones((1, 1, 1), bool),
        )
        block = Block(c, parent=None)
        init = jax.vmap(lambda key: block.init(key, *example)['params'])
        return init(jax.random.split(key, c.num_layers))

    def __call__(self, tokens, mask, cache: attention.Cache | None = None):
        """Runs the decoder.

        Args:
          tokens: [B, T] int32.
          mask: [B, T] bool, True at real tokens.
          cache: The tokens before these, or None. Every row writes at cache.index.

        Returns:
          (hidden states [B, T, D] after the final norm, the new cache or None).
        """
        if cache is None:
            angles = self._angles(attention.positions_from_mask(mask))
            seen = attention.attention_mask(mask, 0, tokens.shape[1])
            return self._scan(tokens, mask, angles, seen), None
        key_mask = jax.lax.dynamic_update_slice(cache.mask, mask, (0, cache.index))
        before = jnp.sum(cache.mask, axis=-1, keepdims=True, dtype=jnp.int32)
        counts = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
        angles = self._angles(jnp.maximum(before + counts - 1, 0))
        seen = attention.attention_mask(key_mask, cache.index, tokens.shape[1])
        hidden, written = self._unroll(tokens, angles, seen, cache)
        keys, values = zip(*written, strict=True)
        index = cache.index + tokens.shape[1]
        return hidden, attention.Cache(keys, values, key_mask, index)

    def _angles(self, positions):
        c = self.config
        return attention.rotations(positions, head_dim=c.head_dim, theta=c.rope_theta)

    def _scan(self, tokens, mask, angles, seen):
        block = Block(self.config, parent=None)

        def layer(x, params):
            return block.apply({'params': params}, x, angles, seen)[0], None

        if self.config.remat == 'full':
            layer = jax.checkpoint(layer)
        elif self.config.remat == 'dots':
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            layer = jax.checkpoint(layer, policy=policy)
        x = constrain(self.embed(tokens), BATCH, None, None)
        # A pad token's embedding learns nothing, though token-wise losses score it:
        # it is often 0, where RMSNorm's slope is 1/√ε and would drown all else.
        x = jnp.where(mask[..., None], x, jax.lax.stop_gradient(x))
        x, _ = jax.lax.scan(layer, x, self.layers)
        return self.final_norm(x)

    def _unroll(self, tokens, angles, seen, cache):
        block = Block(self.config, parent=None)
        x, written = self.embed(tokens), []
        layers = layer_list(self.layers, self.config.num_layers)
        for i, params in enumerate(layers):
            past = (cache.keys[i], cache.values[i])
            x, pair = block.apply(
                {'params': params}, x, angles, seen, past, cache.index
            )
            written.append(pair)
        return self.final_norm(x), written


class CausalLM(Decoder):
    """A decoder with an output projection over the vocabulary."""

    def setup(self):
        """Adds the projection, unless it is tied to the embedding."""
        super().setup()
        if not self.config.tie_embeddings:
            c = self.config
            self.lm_head = Linear(c.vocab_size, False, c.dtype, c.init_std)

    def __call__(self, tokens, mask, cache=None, *, start: int = 0, stop=None):
        """Returns (logits float32 of positions start:stop, the new cache or None).

        Args:
          tokens: [B, T] int32.
          mask: [B, T] bool, True at real tokens.
          cache: The tokens before these, or None.
          start: First position whose logits are computed.
          stop: End of these positions; None is T.
        """
        hidden, cache = super().__call__(tokens, mask, cache)
        hidden = hidden[:, start:stop]
        if self.config.tie_embeddings:
            logits = self.embed.attend(hidden)
        else:
            logits = self.lm_head(hidden)
        return logits.astype(jnp.float32), cache
