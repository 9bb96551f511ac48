"""Reward and cost models from pairs, sequence-wise or token-wise."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from beaver_jax import types
from beaver_jax.losses import preference
from beaver_jax.models import score
from beaver_jax.steps import state as state_lib

LOSS_TYPES = ('sequence-wise', 'token-wise')


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """Attributes of the loss.

    Attributes:
      kind: 'reward' or 'cost'.
      loss_type: One of LOSS_TYPES.
      regularization: ρ, the weight of the mean squared score; not negative.
      normalize: The loss sees normalized scores (`normalize_score_during_training`).
      outputs: Names of a cost model's outputs, in their order; the metrics of the first
        have no name.
    """

    kind: str
    loss_type: str = 'sequence-wise'
    regularization: float = 0.0
    normalize: bool = False
    outputs: tuple[str, ...] = ('',)

    def __post_init__(self):
        """Refuses values out of range."""
        if self.kind not in ('reward', 'cost'):
            raise ValueError(f'kind={self.kind!r}; known: reward, cost.')
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f'loss_type={self.loss_type!r}; known: {LOSS_TYPES}.')
        if not self.regularization >= 0:
            raise ValueError(
                f'regularization={self.regularization}; must not be negative.'
            )


class PreferenceState(struct.PyTreeNode):
    """State of a reward or cost model in training."""

    step: jax.Array  # [] int32
    model: state_lib.Learner
    normalizer: score.Normalizer


def init(
    params: Any,
    normalizer: score.Normalizer,
    optimizer: optax.GradientTransformation,
) -> PreferenceState:
    """The state before the first step."""
    learner = state_lib.init_learner(params, optimizer)
    return PreferenceState(jnp.zeros((), jnp.int32), learner, normalizer)


def pair_scores(
    params: Any, batch: types.PairBatch, *, model: score.ScoreModel
) -> tuple[jax.Array, jax.Array]:
    """Scores of both sequences of each pair.

    Returns:
      (scores at all positions [B, 2, T, K], end scores [B, 2, K]).
    """
    rows, two, length = batch.tokens.shape
    tokens = batch.tokens.reshape(rows * two, length)
    mask = batch.mask.reshape(rows * two, length)
    scores: Any = model.apply({'params': params}, tokens, mask)
    ends = score.end_scores(scores, mask)
    return scores.reshape(rows, two, length, -1), ends.reshape(rows, two, -1)


def pair_ends(
    params: Any, batch: types.PairBatch, *, model: score.ScoreModel
) -> jax.Array:
    """End scores of both sequences of each pair, [B, 2, K], and no others."""
    rows, two, length = batch.tokens.shape
    mask = batch.mask.reshape(rows * two, length)
    ends: Any = model.apply(
        {'params': params},
        batch.tokens.reshape(rows * two, length),
        mask,
        wanted=score.ends(mask),
    )
    return ends.reshape(rows, two, -1)


def preference_loss(
    params: Any,
    batch: types.PairBatch,
    normalizer: score.Normalizer,
    *,
    model: score.ScoreModel,
    config: PreferenceConfig,
) -> tuple[jax.Array, state_lib.Aux]:
    """The reward or cost loss of a batch; its weight is the number of pairs.

    A reward model learns its first output; of a cost model the losses of those that are
    named in `config` are averaged. The step's outputs are the raw end scores [B, 2, K].
    """
    if config.loss_type == 'sequence-wise':
        ends = pair_ends(params, batch, model=model)
        scores, mask = ends[:, :, None], batch.valid[:, None]
    else:
        scores, ends = pair_scores(params, batch, model=model)
        mask = preference.divergent_mask(batch.tokens, batch.mask)
        mask = mask & batch.valid[:, None]
    raw_ends = ends
    if config.normalize:
        function = score.NORMALIZE_FUNCTIONS[model.config.score_type]
        scores, ends = (
            score.normalize(normalizer, x, function=function) for x in (scores, ends)
        )
    if config.kind == 'reward':
        loss = preference.reward_loss(
            scores[..., 0], mask, regularization=config.regularization
        )
    else:
        loss = jnp.mean(
            jnp.stack(
                [
                    preference.cost_loss(
                        scores[..., k],
                        batch.safety_sign[..., k],
                        mask,
                        order=None if batch.order is None else batch.order[:, k],
                        regularization=config.regularization,
                    )
                    for k in range(len(config.outputs))
                ]
            )
        )
    sums = accuracy_sums(ends, batch, kind=config.kind, outputs=config.outputs)
    means = {f'train/{name}': found for name, found in sums.items()}
    weight = jnp.sum(batch.valid)
    return loss, state_lib.Aux(weight, {'train/loss': loss}, raw_ends, means)


def accuracy_sums(
    ends: jax.Array,
    batch: types.PairBatch,
    *,
    kind: str,
    outputs: tuple[str, ...] = ('',),
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """(hits, count) by name: 'accuracy' of the ranking, 'accuracy_sign' of costs.

    Args:
      ends: [B, 2, K] end scores.
      batch: The pairs; only valid ones count, and what is known of them.
      kind: 'reward' or 'cost'.
      outputs: Names; of the second and later ones the metrics are 'accuracy/<name>'
        and so on.
    """
    sums = {}
    for k, output in enumerate(outputs):
        suffix = f'/{output}' if k else ''
        order = jnp.ones_like(batch.valid, jnp.int32)
        if batch.order is not None:
            order = batch.order[:, k]
        # A cost model ranks the other way round: the preferred sequence costs less.
        ranked = ends[..., k] if kind == 'reward' else -ends[..., k]
        counted = (batch.valid & (order != 0)).astype(jnp.float32)
        hits = preference.ranking_accuracy(ranked * order[:, None])
        sums['accuracy' + suffix] = (jnp.sum(hits * counted), jnp.sum(counted))
        if kind == 'cost':
            sign = batch.safety_sign[..., k]
            known = (sign != 0) & batch.valid[:, None]
            right = preference.sign_accuracy(ends[..., k], sign)
            sums['accuracy_sign' + suffix] = (
                jnp.sum(jnp.where(known, right, 0.0)),
                jnp.sum(known.astype(jnp.float32)),
            )
    return sums


def preference_step(
    state: PreferenceState,
    batch: types.PairBatch,
    key: jax.Array,
    *,
    model: score.ScoreModel,
    optimizer: optax.GradientTransformation,
    config: PreferenceConfig,
    parts: int = 1,
    fillers: bool = False,
) -> tuple[PreferenceState, dict[str, jax.Array]]:
    """One update on a batch of pairs.

    The normalizer takes in the batch's raw end scores first, as in the original; the
    loss then sees the new statistics, where it sees normalized scores.

    Args:
      state: Donated by the caller.
      batch: B pairs.
      key: Unused; every step has one.
      model: The score model.
      optimizer: Moves it.
      config: The loss.
      parts: Backward passes that the batch is cut into; divides B.
      fillers: Some pairs may not be valid; the normalizer leaves them out.
    """
    del key
    valid = jnp.repeat(batch.valid, 2) if fillers else None  # of single sequences

    def update(normalizer, ends):
        return score.update_normalizer(
            normalizer,
            ends.reshape(-1, ends.shape[-1]),
            kind=model.config.normalizer_type,
            momentum=model.config.momentum,
            valid=valid,
        )

    normalizer = state.normalizer
    if config.normalize:
        ends = pair_ends(state.model.params, batch, model=model)
        normalizer = update(normalizer, ends)

    def loss_fn(params, part):
        return preference_loss(params, part, normalizer, model=model, config=config)

    grads, metrics, ends = state_lib.gradients(
        loss_fn, state.model.params, batch, parts=parts
    )
    if not config.normalize:
        normalizer = update(normalizer, ends)
    learner = state_lib.apply_gradients(state.model, grads, optimizer)
    metrics = metrics | {
        'train/grad_norm': optax.tree.norm(grads),
        'train/bad_steps': state_lib.bad_steps(learner),
    }
    return PreferenceState(state.step + 1, learner, normalizer), metrics


def preference_eval(
    params: Any,
    batch: types.PairBatch,
    *,
    model: score.ScoreModel,
    config: PreferenceConfig,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """(sum, count) over a batch by name; see `accuracy_sums`."""
    ends = pair_ends(params, batch, model=model)
    return accuracy_sums(ends, batch, kind=config.kind, outputs=config.outputs)
