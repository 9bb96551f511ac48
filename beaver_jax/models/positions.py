"""Where tokens stand: counted from masks, rotated into heads, or as a bias.

Axes: B batch, T query time, S key time, N query heads, A head dim, R rotated part.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.models import config as config_lib

# Which places of a row's T a pass is asked for: a range, or each row's own, [B, n]
# int32; None for all.
Wanted = slice | jax.Array | None


def positions_from_mask(
    mask: jax.Array, segments: jax.Array | None = None
) -> jax.Array:
    """Positions of tokens, [B, T] int32: the count of real tokens before each.

    So left padding, right padding and none give a token the same position. Padding
    after a row's end counts on, as in safe-rlhf, whose token-wise losses score it.
    With segments, [B, T], positions begin anew in each; and in the padding, if that is
    one of them.
    """
    index = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
    counts = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    # Padding so far, as seen from the last real token.
    skipped = jax.lax.cummax(jnp.where(mask, index + 1 - counts, 0), axis=1)
    places = index - skipped
    if segments is None:
        return places
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    return places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1)


def at(x: jax.Array, wanted: Wanted, *, axis: int = 1) -> jax.Array:
    """x [B, ...] at the wanted places of its time axis."""
    if wanted is None:
        return x
    if isinstance(wanted, slice):
        return x[(slice(None),) * axis + (wanted,)]
    shape = [1] * x.ndim
    shape[0], shape[axis] = wanted.shape
    return jnp.take_along_axis(x, wanted.reshape(shape), axis)


def frequencies(config: config_lib.TransformerConfig) -> tuple[np.ndarray, float]:
    """Rotary frequencies θ^(-2i/R), stretched, and what multiplies cosine and sine.

    Returns:
      ([R/2] float32, factor).
    """
    half = config.rotated // 2
    plain = config.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return plain.astype(np.float32), 1.0
    stretched = plain / scaling.factor
    if scaling.kind == 'linear':
        return stretched.astype(np.float32), 1.0
    factor = 1.0
    if scaling.kind == 'llama3':
        keep = _llama3_share(plain, scaling)
    else:
        keep = _yarn_share(config, scaling)
        paper = max(0.1 * math.log(scaling.factor) + 1.0, 1.0)
        given = scaling.attention_factor
        factor = paper if given is None else given
    return (keep * plain + (1 - keep) * stretched).astype(np.float32), factor


def _llama3_share(plain: np.ndarray, scaling: config_lib.RopeScaling) -> np.ndarray:
    """How much of each frequency stays as it is: 1 for fast waves, 0 for slow ones."""
    turns = scaling.original_positions * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((turns - low) / (high - low), 0, 1)


def _yarn_share(
    config: config_lib.TransformerConfig, scaling: config_lib.RopeScaling
) -> np.ndarray:
    """The same of YaRN: a ramp between two dimensions (arXiv 2309.00071, 3.2)."""
    width = config.rotated

    def dimension(rotations):
        waves = scaling.original_positions / (rotations * 2 * math.pi)
        return width * math.log(waves) / (2 * math.log(config.rope_theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), width - 1)
    span = max(high - low, 1e-3)
    return 1 - np.clip((np.arange(width // 2) - low) / span, 0, 1)


def rotations(
    positions: jax.Array, config: config_lib.TransformerConfig
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, for all layers and heads.

    Args:
      positions: [B, T] int32.
      config: Decides the frequencies.

    Returns:
      (cosines, sines), [B, 1, T, R/2] float32 each.
    """
    found, factor = frequencies(config)
    angles = positions[:, None, :, None] * jnp.asarray(found).reshape(1, 1, 1, -1)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(
    x: jax.Array, angles: tuple[jax.Array, jax.Array], *, interleaved: bool = False
) -> jax.Array:
    """Rotary position embedding of the first R dimensions (arXiv 2104.09864).

    Args:
      x: [B, heads, T, A].
      angles: Of `rotations`.
      interleaved: Pairs stand side by side; otherwise R/2 apart.

    Returns:
      [B, heads, T, A], of the type of x; rotated in float32.
    """
    cos, sin = angles
    width = 2 * cos.shape[-1]
    rest = x[..., width:]
    wide = x[..., :width].astype(jnp.float32)
    if interleaved:
        first, second = wide[..., ::2], wide[..., 1::2]
    else:
        first, second = jnp.split(wide, 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        turned = jnp.stack(rotated, axis=-1).reshape(wide.shape)
    else:
        turned = jnp.concatenate(rotated, axis=-1)
    turned = turned.astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


def alibi_slopes(heads: int) -> np.ndarray:
    """Slopes of ALiBi, [N] float32 (Press et al., arXiv 2108.12409).

    2^(-8i/n) for n heads, n a power of two; of another number of heads, those of the
    power below, and then every other one of the power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)]
    return np.asarray([*slopes, *between][:heads], np.float32)


def alibi(key_positions: jax.Array, heads: int) -> jax.Array:
    """What ALiBi adds to the logits: slope times the key's position, [B, N, 1, S].

    The query's position, which the paper takes off, cancels in the softmax.

    Args:
      key_positions: [B, S] int32; what is added to all of a query's keys cancels too,
        but small numbers are more exact.
      heads: N.
    """
    slopes = jnp.asarray(alibi_slopes(heads)).reshape(1, heads, 1, 1)
    return slopes * key_positions[:, None, None, :].astype(jnp.float32)
