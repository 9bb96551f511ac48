"""One update of a batch: the critics' values are those of the update's own pass."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from beaver_jax import multiplier
from beaver_jax import scoring
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from tests.steps import rollouts

NAMES = ('harm', 'lies')
CONFIG = ppo_config.PPOConfig(ptx_coeff=0.5)
OPTIMIZERS = ppo_lag.Optimizers(
    optax.sgd(0.1),
    optax.sgd(0.1),
    optax.chain(optax.scale(0.1), multiplier.projected_ascent(5.0)),
)


def critics():
    return {name: rollouts.critic(2 + i) for i, name in enumerate(NAMES)}


def scored():
    """Experience with the values that the critics' own pass over the samples gives."""
    batch = rollouts.experience(*NAMES)
    values = jax.jit(
        functools.partial(
            scoring.response_values,
            rollouts.critic()[0],
            response_length=rollouts.RESPONSE,
        )
    )
    rows = batch.samples.tokens, batch.samples.mask
    return batch.replace(
        reward_values=values(rollouts.critic()[1], *rows),
        cost_values={name: values(p, *rows) for name, (_, p) in critics().items()},
    )


def without_values(batch):
    return batch.replace(reward_values=None, cost_values=dict.fromkeys(NAMES))


def step(batch, config):
    state = ppo_lag.init(
        {
            'actor': rollouts.actor()[1],
            'reward_critic': rollouts.critic()[1],
            'cost_critics': {name: params for name, (_, params) in critics().items()},
        },
        OPTIMIZERS,
        multipliers={'harm': 1.0, 'lies': 0.5},
        costs=NAMES,
        window=3,
    )
    networks = ppo_lag.Networks(
        rollouts.actor()[0],
        rollouts.critic()[0],
        {name: model for name, (model, _) in critics().items()},
    )
    run = functools.partial(
        ppo_lag.ppo_lag_step,
        networks=networks,
        optimizers=OPTIMIZERS,
        config=config,
        thresholds=dict.fromkeys(NAMES, 0.5),
    )
    return jax.jit(run)(state, (batch, rollouts.supervised()), jax.random.key(0))


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'parts': 2, 'truncation': 'bootstrap', 'per_token_mean': True, 'gamma': 0.9},
    ],
    ids=['plain', 'parts, bootstrapped, by token'],
)
def test_it_is_the_update_from_values_that_were_scored_before(changes):
    config = dataclasses.replace(CONFIG, **changes)
    expected, expected_metrics = step(scored(), config)
    found, metrics = step(without_values(scored()), config)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, 1e-6, 1e-6, err_msg=name)
    assert metrics['train/cost_critic_grad_norm/lies'] > 0.1
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6),
        found,
        expected,
    )


def test_a_second_update_would_need_values_from_before_the_first():
    config = dataclasses.replace(CONFIG, epochs=2)
    with pytest.raises(ValueError, match=r'no values, and 2 updates.*values=True'):
        step(without_values(scored()), config)
