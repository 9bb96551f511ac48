"""The three programs of an iteration of PPO-Lagrangian, of a `Shape`."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from beaver_jax import multiplier
from beaver_jax import optim
from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import experience
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from benchmarks import shapes

LEARNING = ('actor', 'reward_critic', 'cost_critics')
FROZEN = ('reference', 'reward', 'costs')


def decoder(shape: shapes.Shape, **changes: Any) -> config_lib.TransformerConfig:
    """The shape's LLaMA, with changes."""
    fields: dict[str, Any] = {
        'vocab_size': shape.vocab_size,
        'embed_dim': shape.embed_dim,
        'num_layers': shape.num_layers,
        'num_heads': shape.num_heads,
        'num_kv_heads': shape.num_kv_heads,
        'head_dim': shape.embed_dim // shape.num_heads,
        'mlp_dim': shape.mlp_dim,
        'max_positions': shape.length,
        'dtype': shape.dtype,
        'remat': shape.remat,
    }
    return config_lib.TransformerConfig(**(fields | changes))


class Programs:
    """Functions and optimizers; arguments are arrays, or shapes alone."""

    def __init__(self, shape: shapes.Shape):
        """Nothing is compiled."""
        config = decoder(shape)
        self.shape = shape
        self.coefficients = ppo_config.PPOConfig(parts=shape.chunks)
        self.policy = transformer.CausalLM(config)
        self.scorer = score.ScoreModel(
            config_lib.ScoreConfig(config, score_type='critic')
        )
        self.optimizers = ppo_lag.Optimizers(
            adamw(),
            adamw(),
            optax.chain(optax.scale(0.1), multiplier.projected_ascent(5.0)),
        )
        self.functions: dict[str, Callable[..., Any]] = {
            'generate': self._generate(),
            'score': self._score(),
            'update': self._update(),
        }

    def _generate(self):
        return functools.partial(
            generate.generate,
            model=self.policy,
            response_length=self.shape.response,
            sampler=sampling.Sampler(),
            eos_ids=(self.shape.vocab_size,),  # is never sampled
            pad_id=0,
        )

    def _score(self):
        # `end_scores` wants one and, unasked, leaves it alone.
        normalizer = score.init_normalizer(1)

        def end(params, tokens, mask, packs=None):
            return scoring.end_scores(
                self.scorer, params, normalizer, tokens, mask, packs=packs
            )

        scorers = experience.Scorers(
            self.policy,
            end,
            {'harm': end},
            {'harm': experience.Cost('harm')},
            self.scorer,
            {'harm': self.scorer},
        )
        return functools.partial(
            experience.score_samples,
            scorers=scorers,
            temperature=1.0,
            values=False,  # the update says them
            chunks=self.shape.chunks,
        )

    def _update(self):
        networks = ppo_lag.Networks(self.policy, self.scorer, {'harm': self.scorer})
        return functools.partial(
            ppo_lag.ppo_lag_step,
            networks=networks,
            optimizers=self.optimizers,
            config=self.coefficients,
            thresholds={'harm': 0.0},
        )

    def roles(self) -> dict[str, Any]:
        """The model of each role, costs by name."""
        return {
            'actor': self.policy,
            'reference': self.policy,
            'reward': self.scorer,
            'costs': {'harm': self.scorer},
            'reward_critic': self.scorer,
            'cost_critics': {'harm': self.scorer},
        }

    def init(self, learning: Mapping[str, Any]) -> ppo_lag.PPOLagState:
        """The state of these parameters."""
        return ppo_lag.init(
            learning,
            self.optimizers,
            multipliers={'harm': 1.0},
            costs=('harm',),
            window=self.shape.rows,
        )

    def arguments(
        self, phase: str, state: Any, frozen: Any, prompts: Any, given: Any, key: Any
    ) -> tuple[Any, ...]:
        """Those of a phase's function, from what the phase before gave."""
        if phase == 'generate':
            return state.actor.params, prompts, key
        if phase == 'update':
            return state, (given, None), key
        critics = {
            'reward_critic': state.reward_critic.params,
            'cost_critics': {n: c.params for n, c in state.cost_critics.items()},
        }
        return frozen | critics, given

    def abstract(self) -> dict[str, tuple[Any, ...]]:
        """Arguments of each phase as shapes: what learns is kept in float32."""
        whole = jax.tree.map(hf.abstract_params, self.roles())
        frozen = {name: _typed(whole[name], self.shape.dtype) for name in FROZEN}
        state = jax.eval_shape(
            self.init, {name: _typed(whole[name], 'float32') for name in LEARNING}
        )
        prompts = prompt_batch(self.shape)
        key = jax.eval_shape(lambda: jax.random.key(0))
        found: dict[str, tuple[Any, ...]] = {}
        given: Any = None
        for phase in shapes.PHASES:
            found[phase] = self.arguments(phase, state, frozen, prompts, given, key)
            if phase != 'update':
                given = jax.eval_shape(self.functions[phase], *found[phase])
        return found


def _typed(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


def prompt_batch(shape: shapes.Shape) -> Any:
    """Prompts as shapes."""

    def make():
        tokens = jnp.zeros((shape.rows, shape.prompt), jnp.int32)
        return types.PromptBatch(
            tokens, jnp.ones_like(tokens, bool), jnp.arange(shape.rows)
        )

    return jax.eval_shape(make)


def adamw() -> optax.GradientTransformation:
    """That of every run, at a constant rate."""
    return optim.make_optimizer(
        optim.OptimizerConfig(learning_rate=1e-5, schedule='constant'), 1000
    )
