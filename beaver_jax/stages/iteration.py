"""An iteration of reinforcement learning: three programs, none of them waited for."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from beaver_jax import compilation
from beaver_jax.stages import bridge
from beaver_jax.stages import offload
from beaver_jax.stages import packed
from beaver_jax.stages import rollouts
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import ppo_lag


@dataclasses.dataclass(frozen=True)
class Iteration:
    """Sampling, scoring and the update.

    Attributes:
      rollout: Of `rollouts.make`.
      score: (params, bases, samples, views) to experience.
      learn: The update.
      views_of: The bridge to score models with tokenizers of their own; with any, it
        reads the samples on the host, and so waits for the rollout.
      views_shapes: The number of samples to what the bridge will give, as shapes.
      packer: Packs samples, on the host too.
      frozen: Parameters by role.
      bases: The models under adapters, by role.
      offloads: What waits for its phase does so on the host.
    """

    rollout: compilation.Program | rollouts.InSlots
    score: compilation.Program
    learn: compilation.Program
    views_of: bridge.Bridge
    views_shapes: Callable[[int], bridge.Views]
    packer: packed.Packer
    frozen: Mapping[str, Any]
    bases: Mapping[str, Any]
    offloads: bool = False

    def compile(self, state, batch, key) -> stage_lib.Compiled:
        """Compiles the three, each for what the one before will give."""
        rollout_key, learn_key = jax.random.split(key)
        found = {}
        found['rollout'], samples = self.rollout.ahead(
            state.actor.params, self.bases['actor'], batch['prompts'], rollout_key
        )
        views = self.views_shapes(samples.tokens.shape[0])
        params, bases = self._fetched((self._params(state), self.bases))
        for packs in self.packer.scored():
            read = samples.replace(packs=packs)
            ahead, scored = self.score.ahead(params, bases, read, views)
            found[stage_lib.numbered('scoring', found)] = ahead
        state, bases = self._fetched((state, self.bases))
        for packs in self.packer.learnt():
            rows = (ppo_lag.with_packs(scored, packs), batch.get('ptx'))
            ahead, _ = self.learn.ahead(state, (rows, bases), learn_key)
            found[stage_lib.numbered('update', found)] = ahead
        return found

    def __call__(self, state, batch, key):
        """(state, metrics, phases)."""
        rollout_key, learn_key = jax.random.split(key)
        samples = self.rollout(
            state.actor.params, self.bases['actor'], batch['prompts'], rollout_key
        )
        views, cut = self.views_of(batch['prompts'].row, samples)
        to_score, to_learn = self.packer(samples, learn_key)
        scored = self.score(
            *self._fetched((self._params(state), self.bases)),
            samples.replace(packs=to_score),
            views,
        )
        state, bases = self._fetched((state, self.bases))
        rows = (ppo_lag.with_packs(scored, to_learn), batch.get('ptx'))
        state, metrics = self.learn(state, (rows, bases), learn_key)
        if self.offloads:
            state = offload.park(state)
        metrics |= {f'train/{n}_reencoded_truncated_share': cut[n] for n in cut}
        phases = {
            'rollout': samples.truncated,
            'scoring': scored.reward,
            'update': metrics,
        }
        return state, metrics, phases

    def _params(self, state) -> dict[str, Any]:
        return dict(self.frozen) | {
            'reward_critic': state.reward_critic.params,
            'cost_critics': {n: c.params for n, c in state.cost_critics.items()},
        }

    def _fetched(self, tree: Any) -> Any:
        return offload.fetch(tree) if self.offloads else tree
