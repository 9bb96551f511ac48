"""Scores samples with the reference, reward and cost models and the critics."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import score
from beaver_jax.models import transformer

# (params, tokens [B, T], mask [B, T]) to scores [B, outputs]: a model's end scores,
# or any other function of the sequence. Where samples have packs, these come fourth.
ScoreFn = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Where the cost of a constraint comes from: an output of a scorer."""

    scorer: str
    output: int = 0


@dataclasses.dataclass(frozen=True)
class Scorers:
    """The functions that score samples; their parameters travel beside them.

    Attributes:
      reference: The policy that the actor is held to.
      reward: Reward of a sequence, [B, 1].
      costs: Scorers of costs, [B, outputs], by name of the scorer.
      constraints: By name of the constraint, its cost.
      reward_critic: Value model of the reward.
      cost_critics: Value models by constraint; may lack costs that are only measured.
    """

    reference: transformer.CausalLM
    reward: ScoreFn
    costs: Mapping[str, ScoreFn]
    constraints: Mapping[str, Cost]
    reward_critic: score.ScoreModel
    cost_critics: Mapping[str, score.ScoreModel]


def score_samples(
    params: Mapping[str, Any],
    samples: types.Samples,
    *,
    scorers: Scorers,
    temperature: float,
    values: bool = True,
    chunks: int = 1,
    views: Mapping[str, types.Sequences] | None = None,
) -> types.Experience:
    """Computes all that an update needs to know of samples.

    Args:
      params: 'reference', 'reward', 'costs' (by scorer), 'reward_critic',
        'cost_critics' (by constraint).
      samples: B rows.
      scorers: The functions.
      temperature: That of sampling, for the reference's log-probabilities.
      values: Asks the critics; False leaves them out, with their parameters, where one
        update learns from the batch (`ppo_lag_step`).
      chunks: The rows are scored in this many parts, one after the other; divides B.
      views: The samples in the ids of scorers with tokenizers of their own: of
        'reward', and of 'costs.<scorer>'. All else reads the samples' ids.
    """

    def score_rows(rows):
        samples, views = rows
        return _score(params, samples, views, scorers, temperature, values)

    rows = samples, dict(views or {})
    if chunks == 1:
        return score_rows(rows)
    parts = jax.lax.map(score_rows, sharding.split_rows(rows, chunks))
    return sharding.merge_rows(parts)


def _score(params, samples, views, scorers, temperature, values) -> types.Experience:
    tokens, mask = samples.tokens, samples.mask

    def read_by(name):
        if name in views:
            return views[name].tokens, views[name].mask
        packs = () if samples.packs is None else (samples.packs,)
        return tokens, mask, *packs

    length = samples.response_mask.shape[1]
    read = {'response_length': length, 'packs': samples.packs}
    ref_logps, _ = scoring.response_logps(
        scorers.reference,
        params['reference'],
        tokens,
        mask,
        temperature=temperature,
        **read,
    )
    by_scorer = {
        name: scorer(params['costs'][name], *read_by(f'costs.{name}'))
        for name, scorer in scorers.costs.items()
    }
    costs = {
        name: by_scorer[cost.scorer][:, cost.output]
        for name, cost in scorers.constraints.items()
    }

    reward_values, cost_values = None, dict.fromkeys(scorers.cost_critics)
    if values:
        reward_values = scoring.response_values(
            scorers.reward_critic, params['reward_critic'], tokens, mask, **read
        )
        cost_values = {
            name: scoring.response_values(
                critic, params['cost_critics'][name], tokens, mask, **read
            )
            for name, critic in scorers.cost_critics.items()
        }
    return types.Experience(
        samples=samples.replace(packs=None),  # an update has packs of its own
        ref_logps=jnp.where(samples.response_mask, ref_logps, 0.0),
        reward=scorers.reward(params['reward'], *read_by('reward'))[:, 0],
        costs=costs,
        reward_values=reward_values,
        cost_values=cost_values,
    )
