"""The models of reinforcement learning: what learns, what scores, what stays."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from jax.sharding import Mesh
import ml_collections

from beaver_jax.models import hf
from beaver_jax.models import transformer
from beaver_jax.rollout import experience
from beaver_jax.stages import critics
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import loading
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import scorers
from beaver_jax.stages import shared_base
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
    config: ml_collections.ConfigDict,
    tokenizer: inputs.Tokenizer,
    constraints: tuple[str, ...],
) -> dict[str, str]:
    """Those of the models that the actor's and the critics' adapters stand on."""
    actor = learning_lib.settings(config.actor, 'actor')
    found = learning_lib.fingerprint(actor, 'actor', config.actor.init)
    lora = learning_lib.settings(config.critic, 'critic')
    for name in ('reward', *(f'costs.{name}' for name in constraints)):
        key, path = critics.start(config, tokenizer, name)
        found |= learning_lib.fingerprint(lora, key.removesuffix('.init'), path)
    return found


def load(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    constraints: tuple[str, ...],
) -> Loaded:
    """Loads actor, reference, reward and cost models, and makes the critics."""
    lora = learning_lib.settings(config.actor, 'actor')
    actor, actor_params = loading.causal_lm(
        mesh, config.actor, 'actor', frozen=lora.rank > 0
    )
    inputs.check_tokenizer(tokenizer, actor.config, 'config.actor')
    ppo_settings.check_lengths(config, actor.config)
    actor_learning = learning_lib.of(lora, 'actor', mesh, actor_params, config.seed)
    reference, reference_params = _reference(
        config, mesh, tokenizer, actor, actor_learning
    )
    base = None
    if config.share_base:
        base = shared_base.Base(config.actor.init, actor.config, actor_learning.base)
    reward = scorers.scorer(config.reward, mesh, 'reward', base)
    cost_scorers, costs = {}, {}
    for name, cost in config.costs.items():
        cost_scorers[name] = scorers.scorer(cost, mesh, f'costs.{name}', base)
        costs[name] = experience.Cost(name, cost.output)
    reward_critic, reward_critic_learning = critics.critic(
        config, mesh, tokenizer, 'reward', reward
    )
    cost_critics, cost_critic_learning = {}, {}
    for name in constraints:
        cost_critics[name], cost_critic_learning[name] = critics.critic(
            config, mesh, tokenizer, f'costs.{name}', cost_scorers[name]
        )
    return Loaded(
        networks=ppo_lag.Networks(actor, reward_critic, cost_critics),
        scorers=experience.Scorers(
            reference,
            reward.function,
            {name: one.function for name, one in cost_scorers.items()},
            costs,
            reward_critic,
            cost_critics,
        ),
        actor=actor_learning,
        reward_critic=reward_critic_learning,
        cost_critics=cost_critic_learning,
        frozen={
            'reference': reference_params,
            'reward': reward.params(),
            'costs': {name: one.params() for name, one in cost_scorers.items()},
        },
    )


def _reference(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    actor: transformer.CausalLM,
    learning: learning_lib.Learning,
) -> tuple[transformer.CausalLM, Any]:
    """The policy that the actor is held to; adapters stand on the same parameters."""
    section = config.reference
    theirs = inputs.load_tokenizer('reference.init', section.init)
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise inputs.InputError(
            f'config.reference.init={section.init!r} has another tokenizer than the '
            'actor; the policy can be held only to one that reads the same tokens.'
        )
    directory = inputs.model_directory('reference.init', section.init)
    inputs.check_tokenizer(theirs, hf.backbone_config(directory), 'config.reference')
    if not learning.lora.rank or section.init != config.actor.init:
        return loading.causal_lm(mesh, section, 'reference', frozen=True)
    fields = inputs.compute(section, 'reference')
    shared = dataclasses.replace(actor.config, **fields)
    return transformer.CausalLM(shared), learning.base
