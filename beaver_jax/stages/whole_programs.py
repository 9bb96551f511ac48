"""The scoring and the update of reinforcement learning as programs of shapes.

Each holds several models. How much of them XLA keeps at a time is its own choice, so
these are compiled as a whole, for a plan.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
import ml_collections

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import lora
from beaver_jax.models import score
from beaver_jax.rollout import experience
from beaver_jax.stages import own_programs
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import roles as roles_lib
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import ppo_lag

Roles = Mapping[str, roles_lib.Role]


def temporary(work: own_programs.Work, roles: Roles) -> dict[str, int]:
    """Temporary bytes of scoring and update."""
    config, mesh = work.config, work.mesh
    samples = own_programs.sample_shapes(*own_programs.sizes(config))
    own = {name: role.params for name, role in roles.items()}
    frozen = bases(roles)
    score_samples = scoring(config, roles)
    step, state = update(config, mesh, roles)
    ptx = None
    if config.ppo.ptx_coeff > 0:
        ptx = own_programs.sft_shapes(*samples.tokens.shape)
    batch = (rows(config, samples, roles), ptx)
    spread = functools.partial(own_programs.spread, mesh)
    return {
        'scoring': work.compiled(score_samples, own, frozen, spread(samples)),
        'update': work.compiled(
            step,
            state,
            spread(batch),
            frozen,
            jax.eval_shape(lambda: jax.random.key(0)),
            donate_argnums=0,
            out_shardings=shardings(mesh, state),
        ),
    }


def _critics(roles: Roles) -> dict[str, roles_lib.Role]:
    """Cost critics by constraint."""
    start = 'cost critic '
    return {
        name.removeprefix(start): role
        for name, role in roles.items()
        if name.startswith(start)
    }


def bases(roles: Roles) -> dict[str, Any]:
    """Frozen parameters by role."""
    return {name: role.base for name, role in roles.items()}


def scoring(config: ml_collections.ConfigDict, roles: Roles) -> Any:
    """(parameters by role, bases by role, samples) to experience."""

    def ends(role):
        def function(params, tokens, mask):
            ends = score.ends(mask)
            return role.model.apply({'params': params}, tokens, mask, wanted=ends)[:, 0]

        return function

    critics = _critics(roles)
    scorers = experience.Scorers(
        roles['reference'].model,
        ends(roles['reward model']),
        {name: ends(roles[f'cost model {name}']) for name in config.costs},
        {name: experience.Cost(name) for name in config.costs},
        roles['reward critic'].model,
        {name: role.model for name, role in critics.items()},
    )

    def score_samples(params, bases, samples):
        whole = {
            name: lora.overlay(role.lora, bases[name], params[name])
            for name, role in roles.items()
            if name != 'actor'
        }
        named = {
            'reference': whole['reference'],
            'reward': whole['reward model'],
            'costs': {name: whole[f'cost model {name}'] for name in config.costs},
            'reward_critic': whole['reward critic'],
            'cost_critics': {name: whole[f'cost critic {name}'] for name in critics},
        }
        return experience.score_samples(
            named,
            samples,
            scorers=scorers,
            temperature=config.rollout.temperature,
            values=ppo_settings.coefficients(config).updates > 1,
            chunks=config.rollout.chunks,
        )

    return score_samples


def update(
    config: ml_collections.ConfigDict, mesh: Mesh, roles: Roles
) -> tuple[Any, Any]:
    """(state, batch, bases, key) to (state, metrics), and the state as shapes."""
    settings, thresholds = ppo_settings.check(config, mesh)
    critics = _critics(roles)
    optimizers = ppo_lag.Optimizers(
        stage_lib.optimizer(config, 'actor_optimizer', config.iterations)[0],
        stage_lib.optimizer(config, 'critic_optimizer', config.iterations)[0],
        ppo_settings.multiplier_optimizer(config.multiplier) if thresholds else None,
    )
    init = functools.partial(
        ppo_lag.init,
        optimizers=optimizers,
        multipliers={name: config.costs[name].multiplier_init for name in thresholds},
        costs=tuple(config.costs),
        window=config.multiplier.window,
    )
    params = {
        'actor': roles['actor'].params,
        'reward_critic': roles['reward critic'].params,
        'cost_critics': {name: role.params for name, role in critics.items()},
    }
    state = roles_lib.placed(mesh, jax.eval_shape(init, params))

    def step(state, batch, bases, key):
        applied = {name: role.over(bases[name]) for name, role in roles.items()}
        networks = ppo_lag.Networks(
            applied['actor'],
            applied['reward critic'],
            {name: applied[f'cost critic {name}'] for name in critics},
        )
        return ppo_lag.ppo_lag_step(
            state,
            batch,
            key,
            networks=networks,
            optimizers=optimizers,
            config=settings,
            thresholds=thresholds,
        )

    return step, state


def shardings(mesh: Mesh, state: Any) -> Any:
    """Of what an update returns."""
    return jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)


def rows(
    config: ml_collections.ConfigDict, samples: types.Samples, roles: Roles
) -> types.Experience:
    """Experience as shapes."""
    count, length = samples.response_mask.shape
    scalars: Any = jax.ShapeDtypeStruct((count,), jnp.float32)
    tokens: Any = jax.ShapeDtypeStruct((count, length), jnp.float32)
    values: Any = None
    if ppo_settings.coefficients(config).updates > 1:
        values = jax.ShapeDtypeStruct((count, length + 1), jnp.float32)
    return types.Experience(
        samples=samples,
        ref_logps=tokens,
        reward=scalars,
        costs={name: scalars for name in config.costs},
        reward_values=values,
        cost_values={name: values for name in _critics(roles)},
    )
