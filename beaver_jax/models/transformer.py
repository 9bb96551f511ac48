"""The one decoder, of which every family is a setting: see `config`.

Axes: B batch, T time, L layers, D model, N query heads, H kv heads, A head dim,
F feed-forward, V vocabulary. Kernels are two-dimensional, [in, out]; the layers'
are stacked, [L, in, out], and scanned. Decoding with a cache unrolls the layers
instead, because a scan that returns the cache would copy it.
"""

import functools
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from beaver_jax.models import attention
from beaver_jax.models import blocks
from beaver_jax.models import config as config_lib
from beaver_jax.models import kernels
from beaver_jax.models import modules
from beaver_jax.models import positions

# Ordered; the first full match wins; an unmatched parameter is an error.
_RULES = (
    (r'(backbone/)?embed/embedding', P('tensor', 'fsdp')),
    (r'(backbone/)?position_embed/embedding', P(None, 'fsdp')),
    (r'(backbone/)?embed_in/kernel', P('fsdp', 'tensor')),
    (r'(backbone/)?embed_out/kernel', P('tensor', 'fsdp')),
    (r'(backbone/)?layers/attention/[qkv]/kernel', P(None, 'fsdp', 'tensor')),
    (r'(backbone/)?layers/attention/[qkv]/bias', P(None, 'tensor')),
    (r'(backbone/)?layers/attention/[qk]_norm/scale', P(None, None)),
    (r'(backbone/)?layers/attention/o/kernel', P(None, 'tensor', 'fsdp')),
    (r'(backbone/)?layers/mlp/(gate|up)/kernel', P(None, 'fsdp', 'tensor')),
    (r'(backbone/)?layers/mlp/(gate|up)/bias', P(None, 'tensor')),
    (r'(backbone/)?layers/mlp/down/kernel', P(None, 'tensor', 'fsdp')),
    (r'(backbone/)?layers/(attention/o|mlp/down)/bias', P(None, None)),
    (r'(backbone/)?layers/\w+_norm/(scale|bias)', P(None, None)),
    (r'(backbone/)?(final|embed)_norm/(scale|bias)', P(None)),
    (r'lm_head/kernel', P('fsdp', 'tensor')),
    (r'lm_head/bias', P('tensor')),
    # Low-rank adapters are cut as their kernels are, on either side of the rank.
    (r'(backbone/)?layers/attention/[qkv]/lora_a', P(None, 'fsdp', None)),
    (r'(backbone/)?layers/attention/[qkv]/lora_b', P(None, None, 'tensor')),
    (r'(backbone/)?layers/mlp/(gate|up)/lora_a', P(None, 'fsdp', None)),
    (r'(backbone/)?layers/mlp/(gate|up)/lora_b', P(None, None, 'tensor')),
    (r'(backbone/)?layers/(attention/o|mlp/down)/lora_a', P(None, 'tensor', None)),
    (r'(backbone/)?layers/(attention/o|mlp/down)/lora_b', P(None, None, 'fsdp')),
    (r'(lm_head|(backbone/)?embed_(in|out))/lora_[ab]', P(None, None)),
    (r'score_head/kernel', P('fsdp', None)),
    (r'score_head/bias', P(None)),
)
# Quantized kernels are cut as the kernels are, their scales along the columns.
RULES = (
    *_RULES,
    *(
        (pattern + suffix, spec if suffix == '_int[48]' else P(None, None, spec[-1]))
        for pattern, spec in _RULES
        if pattern.startswith('(backbone/)?layers/') and pattern.endswith('/kernel')
        for suffix in ('_int[48]', '_scale')
    ),
)
UNROLLED = 8  # layers, at most, that a pass without a cache does not scan


def unstack(params: Any, config: config_lib.TransformerConfig) -> Any:
    """Parameters for a decoding loop: whole, in the compute type, a subtree per layer.

    Every step of a loop would otherwise gather what fsdp has cut (tensor stays cut),
    cast it, and slice, and so copy, all layers. The result goes where the stacked
    parameters would, as long as there is a cache.
    """

    def cast(leaf):  # quantized kernels keep their few bits
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(config.dtype) if is_float else leaf

    def gathered(tree, prefix, stacked):
        def gather(path, leaf):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator='/')
            cut = next((spec for rule, spec in RULES if re.fullmatch(rule, name)), P())
            spec = (None if axes == 'fsdp' else axes for axes in cut[stacked:])
            return blocks.constrain(leaf, *spec)

        return jax.tree_util.tree_map_with_path(gather, tree)

    params = jax.tree.map(cast, params)
    layers = layer_list(params['layers'], config.num_layers)
    rest = {name: tree for name, tree in params.items() if name != 'layers'}
    return gathered(rest, '', 0) | {
        'layers': tuple(gathered(layer, 'layers/', 1) for layer in layers)
    }


def layer_list(layers: Any, count: int) -> tuple[Any, ...]:
    """A subtree per layer, of stacked layers or of unstacked ones."""
    if isinstance(layers, tuple):
        return layers
    # The gradient of a split is one concatenation, that of slices a sum of L arrays.
    cut = jax.tree.map(lambda leaf: jax.lax.split(leaf, (1,) * count), layers)

    def layer(i):
        return jax.tree.map(lambda _, parts: parts[i][0], layers, cut)

    return tuple(layer(i) for i in range(count))


def head_of(params: Any, config: config_lib.TransformerConfig) -> dict[str, Any]:
    """The parameters that `CausalLM.logits_of` needs."""
    name = 'embed' if config.tie_embeddings else 'lm_head'
    return {name: params[name], 'layers': ()}


class Decoder(nn.Module):
    """Token ids to hidden states."""

    config: config_lib.TransformerConfig

    def setup(self):
        """Declares the parameters; the layers' are stacked, [L, ...]."""
        c = self.config
        embed = functools.partial(
            nn.Embed, dtype=c.dtype, embedding_init=nn.initializers.normal(c.init_std)
        )
        linear = functools.partial(
            modules.Linear, bias=False, dtype=c.dtype, std=c.init_std
        )
        padding = c.vocab_rows - c.vocab_size
        self.embed = nn.Embed(
            c.vocab_rows,
            c.hidden_width,
            dtype=c.dtype,
            embedding_init=modules.padded_normal(c.init_std, padding, axis=0),
        )
        if c.positions == 'learned':
            rows = c.max_positions + c.position_offset
            self.position_embed = embed(rows, c.embed_dim)
        if c.embed_width is not None:
            self.embed_in = linear(c.embed_dim)
            self.embed_out = linear(c.embed_width)
        if c.embed_norm:
            self.embed_norm = modules.norm(c)
        # Given layers may be unstacked (see `unstack`) or have adapters in them.
        given: Any = self.get_variable('params', 'layers')
        made = given is None
        self.layers = self.param('layers', self._init_layers) if made else given
        if c.final_norm:
            self.final_norm = modules.norm(c)

    def _init_layers(self, key):
        c = self.config
        x, one = jnp.zeros((1, 1, c.embed_dim), c.dtype), jnp.ones((1, 1), bool)
        first = jnp.zeros((1, 1), jnp.int32)
        context = self._context(one, first, first, first)
        block = blocks.Block(c, parent=None)
        part = context.of_layer(False)
        init = jax.vmap(lambda key: block.init(key, x, part)['params'])
        return init(jax.random.split(key, c.num_layers))

    def __call__(
        self,
        tokens,
        mask,
        cache: attention.Cache | None = None,
        segments=None,
        *,
        wanted: positions.Wanted = None,
    ):
        """Runs the decoder.

        Args:
          tokens: [B, T] int32.
          mask: [B, T] bool, True at real tokens.
          cache: The tokens before these, or None. Every row writes at cache.index, and
            these tokens must fit between it and the cache's end.
          segments: [B, T] int32, sequences of a row that do not see each other, each
            with positions from 0; None where a row is one sequence. Not with a cache.
          wanted: Where hidden states are; see `positions.Wanted`.

        Returns:
          (hidden states [B, T, D] after the final norm, or fewer; the new cache or
          None).
        """
        c, length = self.config, tokens.shape[1]
        if cache is None:
            places = positions.positions_from_mask(mask, segments)
            age = attention.ages(0, length, length)
            context = self._context(mask, places, places, age, segments)
            x = blocks.constrain(self._embed(tokens, places), blocks.BATCH, None, None)
            # A pad token's embedding learns nothing, though token-wise losses score
            # it: it is often 0, where RMSNorm's slope is 1/√ε and would drown all else.
            x = jnp.where(mask[..., None], x, jax.lax.stop_gradient(x))
            if c.num_layers > UNROLLED:
                x = positions.at(self._scan(x, context), wanted)
            else:
                x, _ = self._unroll(x, context, None, wanted)
            return self._close(x), None
        if segments is not None:
            raise ValueError('A cache holds one sequence a row: there are no segments.')
        key_mask = jax.lax.dynamic_update_slice(cache.mask, mask, (0, cache.index))
        before = jnp.sum(cache.mask, axis=-1, keepdims=True, dtype=jnp.int32)
        counts = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
        places = jnp.maximum(before + counts - 1, 0)
        size = key_mask.shape[1]
        age = attention.ages(cache.index, length, size)
        key_places = places[:, -1:] - age[-1:]
        context = self._context(key_mask, places, key_places, age)
        x = self._embed(tokens, places)
        x, written = self._unroll(x, context, cache, wanted)
        keys, values = zip(*written, strict=True)
        index = (cache.index + length) % size
        return self._close(x), attention.Cache(keys, values, key_mask, index)

    def _embed(self, tokens, places):
        """Token ids and positions [B, T] to the residual stream [B, T, D]."""
        c = self.config
        # Cut by rows alone, as a gather of rows can be: cut by columns too, it would be
        # made whole on every device first.
        table = blocks.constrain(self.embed.embedding, 'tensor', None)
        x = jnp.take(table.astype(c.dtype), tokens, axis=0)
        if c.embed_scale != 1:
            x = x * jnp.asarray(c.embed_scale, x.dtype)
        if c.embed_width is not None:
            x = self.embed_in(x)
        if c.positions == 'learned':
            # Padding after a row's end counts on, beyond the table's end at most.
            x = x + self.position_embed(
                jnp.minimum(places, c.max_positions - 1) + c.position_offset
            )
        return self.embed_norm(x) if c.embed_norm else x

    def _close(self, x):
        """From the last layer's output to the hidden states."""
        c = self.config
        x = self.final_norm(x) if c.final_norm else x
        return x if c.embed_width is None else self.embed_out(x)

    def _context(self, key_mask, places, key_places, age, segments=None):
        c = self.config
        seen = attention.attention_mask(key_mask, age, segments)
        near = None
        if c.window is not None:
            near = attention.near_mask(seen, age, c.window)
        rotated = c.positions == 'rope'
        return attention.Context(
            angles=positions.rotations(places, c) if rotated else None,
            mask=seen,
            near=near,
            bias=positions.alibi(key_places, c.num_heads)
            if c.positions == 'alibi'
            else None,
            pattern=self._pattern(seen, key_mask, segments),
        )

    def _pattern(self, seen, mask, segments):
        if seen.shape[1] != seen.shape[2]:
            return None  # there is a past
        windows = self.config.layer_windows()
        return kernels.pattern(seen, mask, segments).replace(
            window=self.config.window if any(windows) else None,
            mixed=len(set(windows)) > 1,
        )

    def _scan(self, x, context):
        c = self.config
        block = blocks.Block(c, parent=None)

        def layer(x, of_layer):
            params, windowed = of_layer
            part = context.of_layer(windowed)
            return block.apply({'params': params}, x, part)[0], None

        windowed = jnp.asarray(c.layer_windows())
        return jax.lax.scan(self._remat(layer), x, (self.layers, windowed))[0]

    def _unroll(self, x, context, cache, wanted):
        """The layers one by one; the last one goes on where it is `wanted`."""
        c = self.config
        block = blocks.Block(c, parent=None)
        written = []
        layers = zip(
            layer_list(self.layers, c.num_layers), c.layer_windows(), strict=True
        )
        for i, (params, windowed) in enumerate(layers):
            past = None if cache is None else (cache.keys[i], cache.values[i])
            index = None if cache is None else cache.index
            where = wanted if i == c.num_layers - 1 else None
            part = context.of_layer(windowed)

            def layer(params, x, part, past, index, where=where):
                return block.apply({'params': params}, x, part, past, index, where)

            x, pair = self._remat(layer)(params, x, part, past, index)
            written.append(pair)
        return x, written

    def _remat(self, layer):
        """A layer as the backward pass sees it."""
        remat = self.config.remat
        if remat == 'none':
            return layer
        policy = None
        if remat == 'dots':
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        return jax.checkpoint(layer, policy=policy)


class CausalLM(Decoder):
    """A decoder with an output projection over the vocabulary."""

    def setup(self):
        """Adds the projection, unless it is tied to the embedding."""
        super().setup()
        c = self.config
        if not c.tie_embeddings:
            self.lm_head = modules.Linear(
                c.vocab_rows,
                c.head_bias,
                c.dtype,
                c.init_std,
                padding=c.vocab_rows - c.vocab_size,
            )

    def __call__(
        self,
        tokens,
        mask,
        cache: attention.Cache | None = None,
        segments=None,
        *,
        wanted: positions.Wanted = None,
    ):
        """Returns (logits [B, T, V] float32, or fewer; the new cache or None).

        Args: see `Decoder`.
        """
        hidden, cache = super().__call__(tokens, mask, cache, segments, wanted=wanted)
        return self.logits_of(hidden), cache

    def hidden_states(
        self, tokens, mask, segments=None, *, wanted: positions.Wanted = None
    ):
        """What `logits_of` makes logits of, [B, T, D] or fewer; see `Decoder`."""
        return super().__call__(tokens, mask, None, segments, wanted=wanted)[0]

    def logits_of(self, hidden):
        """Maps hidden states [..., D] to logits [..., V] float32; see `head_of`."""
        if self.config.tie_embeddings:
            logits = self.embed.attend(hidden)
        else:
            logits = self.lm_head(hidden)
        if self.config.vocab_rows > self.config.vocab_size:
            # The one place where padding is told from tokens: what is sampled, scored
            # or counted never sees it.
            logits = logits[..., : self.config.vocab_size]
        logits = logits.astype(jnp.float32)
        cap = self.config.logit_softcap
        if cap is not None:
            logits = cap * jnp.tanh(logits / cap)
        return logits
