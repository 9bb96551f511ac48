"""Score models (reward, cost, critics): a head on the decoder, and normalizers.

The normalizers are pure functions over a small state, apart from the parameters:
they are not trained, they count.
"""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from beaver_jax.models import config as config_lib
from beaver_jax.models import modules
from beaver_jax.models import positions
from beaver_jax.models import transformer

EPS = 1e-8
# What a score model's type means for its normalization (safe-rlhf's choice): a cost
# is only scaled, so that its sign, and with it the threshold 0, keeps its meaning.
NORMALIZE_FUNCTIONS = {'reward': 'affine', 'cost': 'scale', 'critic': 'identity'}


class ScoreModel(nn.Module):
    """Scores at every position."""

    config: config_lib.ScoreConfig

    def setup(self):
        """Declares the decoder and the head; the head computes in float32."""
        c = self.config
        self.backbone = transformer.Decoder(c.backbone)
        self.score_head = modules.Linear(
            c.score_dim, c.score_bias, 'float32', c.backbone.init_std
        )

    def __call__(self, tokens, mask, segments=None, *, wanted: positions.Wanted = None):
        """Maps tokens and mask, [B, T], to scores [B, T, outputs] float32.

        Args:
          tokens: [B, T] int32.
          mask: [B, T] bool.
          segments: [B, T], sequences of a row that do not see each other, or None.
          wanted: Where scores are, if not everywhere; see `positions.Wanted`.
        """
        hidden, _ = self.backbone(tokens, mask, segments=segments, wanted=wanted)
        return self.score_head(hidden.astype(jnp.float32))


def ends(mask: jax.Array) -> jax.Array:
    """Where each row's last real token stands: [B, T], one True a row, to [B, 1]."""
    return mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1, keepdims=True)


def end_scores(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """The scores at each row's last real token.

    Args:
      scores: [B, T, outputs].
      mask: [B, T] bool, at least one True per row.

    Returns:
      [B, outputs].
    """
    return positions.at(scores, ends(mask))[:, 0]


class Normalizer(struct.PyTreeNode):
    """Running statistics of raw end scores."""

    mean: jax.Array  # [outputs] float32
    var: jax.Array  # [outputs] float32
    count: jax.Array  # [] int32, scores seen


def init_normalizer(score_dim: int) -> Normalizer:
    """Returns mean 0, variance 1, nothing seen."""
    return Normalizer(
        mean=jnp.zeros(score_dim),
        var=jnp.ones(score_dim),
        count=jnp.zeros((), jnp.int32),
    )


def update_normalizer(
    state: Normalizer,
    scores: jax.Array,
    *,
    kind: str | None,
    momentum: float | None,
    valid: jax.Array | None = None,
) -> Normalizer:
    """Takes a batch of raw end scores into the statistics.

    RunningMeanStd merges means and variances as Chan et al. (1979) do, with weights
    n and n_b; ExponentialMovingAverage keeps `momentum` of the old ones. The variance
    of a batch is the unbiased one; a batch of one, which has none, leaves the
    exponential average's variance as it was and counts as zero in the running one.

    Args:
      state: The statistics so far.
      scores: [B, outputs].
      kind: One of config.NORMALIZER_TYPES; None only counts.
      momentum: In [0, 1], for ExponentialMovingAverage.
      valid: [B] bool, at least two of them True; rows that count. None for all.

    Raises:
      ValueError: An unknown kind, or no momentum where it is needed.
    """
    rows = scores.shape[0] if valid is None else jnp.sum(valid)
    total = state.count + rows
    if kind is None:
        return state.replace(count=total)
    where = None if valid is None else valid[:, None]
    mean = jnp.mean(scores, axis=0, where=where)
    var = None
    if scores.shape[0] > 1:
        var = jnp.var(scores, axis=0, ddof=1, where=where)
    if kind == 'ExponentialMovingAverage':
        if momentum is None:
            raise ValueError('momentum=None; an exponential average needs one.')
        new_mean = momentum * state.mean + (1 - momentum) * mean
        new_var = state.var
        if var is not None:
            new_var = momentum * state.var + (1 - momentum) * var
        return Normalizer(new_mean, new_var, total)
    if kind != 'RunningMeanStd':
        raise ValueError(
            f'normalizer_type={kind!r}; known: {config_lib.NORMALIZER_TYPES}.'
        )
    old = state.count.astype(jnp.float32)
    share = rows / total.astype(jnp.float32)
    delta = mean - state.mean
    var = jnp.zeros_like(mean) if var is None else var
    new_var = (
        state.var * (old / total)
        + var * share
        + jnp.square(delta) * (old / total) * share
    )
    return Normalizer(state.mean + delta * share, new_var, total)


def normalize(state: Normalizer, scores: jax.Array, *, function: str) -> jax.Array:
    """Normalizes scores [..., outputs].

    Functions: affine (x - μ)/(σ + ε), scale x/(σ + ε), translate x - μ, identity x.
    """
    mean = state.mean.reshape((1,) * (scores.ndim - 1) + (-1,))
    std = jnp.sqrt(state.var).reshape((1,) * (scores.ndim - 1) + (-1,))
    if function == 'affine':
        return (scores - mean) / (std + EPS)
    if function == 'scale':
        return scores / (std + EPS)
    if function == 'translate':
        return scores - mean
    if function == 'identity':
        return scores
    raise ValueError(
        f'function={function!r}; known: affine, scale, translate, identity.'
    )
