"""The models of reinforcement learning: what learns, what scores, what stays."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from jax.sharding import Mesh
import ml_collections

from beaver_jax import scoring
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import experience
from beaver_jax.stages import critics
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import ppo_settings
from beaver_jax.steps import ppo_lag


@dataclasses.dataclass(frozen=True)
class Loaded:
    """All models of a run: what learns, what scores, and the frozen parameters."""

    networks: ppo_lag.Networks
    scorers: experience.Scorers
    actor: learning_lib.Learning
    reward_critic: learning_lib.Learning
    cost_critics: Mapping[str, learning_lib.Learning]  # by constraint
    frozen: Mapping[str, Any]  # parameters: 'reference', 'reward', 'costs'

    def learning(self) -> dict[str, Any]:
        """Parameters that learn."""
        return self._each(lambda one: one.params)

    def bases(self) -> dict[str, Any]:
        """Frozen parameters under them."""
        return self._each(lambda one: one.base)

    def over(self, bases: Mapping[str, Any]) -> ppo_lag.Networks:
        """The networks, to be applied to what learns."""
        return ppo_lag.Networks(
            self.actor.over(self.networks.actor, bases['actor']),
            self.reward_critic.over(
                self.networks.reward_critic, bases['reward_critic']
            ),
            {
                name: one.over(
                    self.networks.cost_critics[name], bases['cost_critics'][name]
                )
                for name, one in self.cost_critics.items()
            },
        )

    def _each(self, of: Callable[[learning_lib.Learning], Any]) -> dict[str, Any]:
        return {
            'actor': of(self.actor),
            'reward_critic': of(self.reward_critic),
            'cost_critics': {name: of(one) for name, one in self.cost_critics.items()},
        }


def fingerprints(
    config: ml_collections.ConfigDict, constraints: tuple[str, ...]
) -> dict[str, str]:
    """Those of the models that the actor's and the critics' adapters stand on."""
    actor = learning_lib.settings(config.actor, 'actor')
    found = learning_lib.fingerprint(actor, 'actor', config.actor.init)
    lora = learning_lib.settings(config.critic, 'critic')
    scorers = {'reward': config.reward}
    scorers |= {f'costs.{name}': config.costs[name] for name in constraints}
    for name, section in scorers.items():
        found |= learning_lib.fingerprint(lora, name, section.init)
    return found


def load(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    constraints: tuple[str, ...],
) -> Loaded:
    """Loads actor, reference, reward and cost models, and makes the critics."""
    lora = learning_lib.settings(config.actor, 'actor')
    actor, actor_params = inputs.causal_lm(
        mesh, config.actor, 'actor', frozen=lora.rank > 0
    )
    inputs.check_tokenizer(tokenizer, actor.config, 'config.actor')
    ppo_settings.check_lengths(config, actor.config)
    actor_learning = learning_lib.of(lora, 'actor', mesh, actor_params, config.seed)
    reference, reference_params = _reference(config, mesh, actor, actor_learning)
    reward_fn, reward_params = scorer(config.reward, mesh, 'reward')
    cost_fns, cost_params, costs = {}, {}, {}
    for name, cost in config.costs.items():
        cost_fns[name], cost_params[name] = scorer(cost, mesh, f'costs.{name}')
        costs[name] = experience.Cost(name, cost.output)
    reward_critic, reward_critic_learning = critics.critic(
        config, mesh, tokenizer, 'reward', reward_params['model']
    )
    cost_critics, cost_critic_learning = {}, {}
    for name in constraints:
        cost_critics[name], cost_critic_learning[name] = critics.critic(
            config, mesh, tokenizer, f'costs.{name}', cost_params[name]['model']
        )
    return Loaded(
        networks=ppo_lag.Networks(actor, reward_critic, cost_critics),
        scorers=experience.Scorers(
            reference, reward_fn, cost_fns, costs, reward_critic, cost_critics
        ),
        actor=actor_learning,
        reward_critic=reward_critic_learning,
        cost_critics=cost_critic_learning,
        frozen={
            'reference': reference_params,
            'reward': reward_params,
            'costs': cost_params,
        },
    )


def _reference(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    actor: transformer.CausalLM,
    learning: learning_lib.Learning,
) -> tuple[transformer.CausalLM, Any]:
    """The policy that the actor is held to; adapters stand on the same parameters."""
    section = config.reference
    if not learning.lora.rank or section.init != config.actor.init:
        return inputs.causal_lm(mesh, section, 'reference', frozen=True)
    fields = inputs.compute(section, 'reference')
    shared = dataclasses.replace(actor.config, **fields)
    return transformer.CausalLM(shared), learning.base


def scorer(
    section: ml_collections.ConfigDict, mesh: Mesh, name: str
) -> tuple[experience.ScoreFn, Any]:
    """A frozen reward or cost model as a function, and its parameters."""
    model, params, normalizer = inputs.score_model(mesh, section, name, frozen=True)
    # Its use decides how it is normalized, not what config.json calls it.
    kind = 'reward' if name == 'reward' else 'cost'
    model = score.ScoreModel(dataclasses.replace(model.config, score_type=kind))
    if not 0 <= section.output < model.config.score_dim:
        raise inputs.InputError(
            f'config.{name}.output={section.output}: the model has outputs 0 to '
            f'{model.config.score_dim - 1}.'
        )

    def end_scores(params, tokens, mask):
        return scoring.end_scores(
            model,
            params['model'],
            params['normalizer'],
            tokens,
            mask,
            normalize=section.normalize,
        )

    return end_scores, {'model': params, 'normalizer': normalizer}
