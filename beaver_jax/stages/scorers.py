"""Reward and cost models as functions: whole, or adapters over the actor's base."""

import dataclasses
from typing import Any

from jax.sharding import Mesh
import ml_collections

from beaver_jax import scoring
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import score
from beaver_jax.rollout import experience
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import loading
from beaver_jax.stages import shared_base


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A frozen reward or cost model.

    Attributes:
      function: Its scores, of `params()`.
      model: The model.
      held: All its parameters, or adapters and a head over the actor's base.
      normalizer: Statistics of its scores.
    """

    function: experience.ScoreFn
    model: score.ScoreModel
    held: learning_lib.Learning
    normalizer: score.Normalizer

    def params(self) -> dict[str, Any]:
        """What a compiled function takes."""
        return {
            'model': self.held.params,
            'base': self.held.base,
            'normalizer': self.normalizer,
        }


def scorer(
    section: ml_collections.ConfigDict,
    mesh: Mesh,
    name: str,
    base: shared_base.Base | None = None,
) -> Scorer:
    """Loads a frozen reward or cost model: whole, or adapters over the actor's base."""
    if base is None:
        model, params, normalizer = loading.score_model(
            mesh, section, name, frozen=True
        )
        held = learning_lib.Learning(lora_lib.LoraConfig(), params, {})
    else:
        model, held, normalizer = shared_base.load_score_model(
            mesh, section, name, base
        )
    # Its use decides how it is normalized, not what config.json calls it.
    kind = 'reward' if name == 'reward' else 'cost'
    model = score.ScoreModel(dataclasses.replace(model.config, score_type=kind))
    if not 0 <= section.output < model.config.score_dim:
        raise inputs.InputError(
            f'config.{name}.output={section.output}: the model has outputs 0 to '
            f'{model.config.score_dim - 1}.'
        )

    lora = held.lora  # and not what is held: it may be moved, or freed

    def end_scores(params, tokens, mask, packs=None):
        return scoring.end_scores(
            model,
            lora_lib.overlay(lora, params['base'], params['model']),
            params['normalizer'],
            tokens,
            mask,
            normalize=section.normalize,
            packs=packs,
        )

    return Scorer(end_scores, model, held, normalizer)
