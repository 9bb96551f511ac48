"""Tiny models, a rollout batch of theirs and its gradients, for tests of the update."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from tests import tiny

PROMPT, RESPONSE = 3, 4
ONE_LAYER = {'num_layers': 1}
CONFIG = ppo_config.PPOConfig(kl_coeff=0.1)


@functools.cache
def actor():
    return tiny.causal_lm(**ONE_LAYER)


@functools.cache
def critic(seed=1):
    return tiny.score_model(seed, backbone=ONE_LAYER, score_type='critic')


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def sample_logps(name='sampler', temperature=1.0):
    """log π of the samples; the sampler is a little away from the actor."""
    model, params = actor()
    if name == 'sampler':
        params = jax.tree.map(lambda x: x * 1.1, params)
    score = functools.partial(
        scoring.response_logps,
        model,
        response_length=RESPONSE,
        temperature=temperature,
    )
    return jax.jit(score)(params, *sequences())[0]


def sequences():
    """Four rows: prompts of 3, 1, 2, 3 tokens, responses of 4, 1, 2, 4."""
    prompts, responses = jnp.array([3, 1, 2, 3]), jnp.array([4, 1, 2, 4])
    position = jnp.arange(PROMPT + RESPONSE)[None] - PROMPT
    mask = (position >= -prompts[:, None]) & (position < responses[:, None])
    tokens = jax.random.randint(jax.random.key(0), mask.shape, 1, 13)
    return jnp.where(mask, tokens, 0), mask


def experience(*costs, constraints=None):
    """Experience with random scores; costs without a constraint are only measured."""
    tokens, mask = sequences()
    samples = types.Samples(
        tokens=tokens,
        mask=mask,
        response_mask=mask[:, PROMPT:],
        logps=sample_logps(),
        truncated=jnp.array([False, False, False, True]),
    )
    names = costs if constraints is None else constraints
    return types.Experience(
        samples=samples,
        ref_logps=sample_logps() + 0.1 * random(1, 4, RESPONSE),
        reward=random(2, 4),
        costs={name: 1 + random(3 + i, 4) for i, name in enumerate(costs)},
        reward_values=random(8, 4, RESPONSE + 1),
        cost_values={
            name: random(9 + i, 4, RESPONSE + 1) for i, name in enumerate(names)
        },
    )


def supervised():
    """Rows of 6, 2, 5 and 3 tokens, all but the first learnt."""
    mask = jnp.arange(6)[None] < jnp.array([6, 2, 5, 3])[:, None]
    tokens = jax.random.randint(jax.random.key(1), mask.shape, 1, 13)
    return types.SftBatch(tokens, mask, mask.at[:, 0].set(False))


def assert_close(one, other, rtol=1e-4, atol=1e-6):
    check = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(check, one, other)


@functools.cache
def compiled(**fields):
    """(parameters, batch) to (gradients, metrics), with these fields of the config."""
    model, _ = actor()
    config = dataclasses.replace(CONFIG, **fields)
    fn = functools.partial(ppo_lag.actor_gradients, model=model, config=config)
    return jax.jit(fn)


def actor_gradients(samples, advantages, ptx=None, **fields):
    _, params = actor()
    return compiled(**fields)(params, (samples, advantages, ptx))
