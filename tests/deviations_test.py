"""Deviations from the original that cross rooms; docs/parity.md lists all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import fragments
from beaver_jax import types
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_targets
from tests import tiny

EOS = PAD = 3  # one id for both, as many tokenizers have it


@pytest.fixture(scope='module')
def samples() -> types.Samples:
    model, params = tiny.causal_lm(num_layers=1)
    rows, length = 16, 3
    prompts = types.PromptBatch(
        # The prompts hold that id too, as a real token.
        tokens=jnp.tile(jnp.array([[5, PAD, 7]]), (rows, 1)),
        mask=jnp.ones((rows, length), bool),
        row=jnp.arange(rows),
    )
    fn = functools.partial(
        generate.generate,
        model=model,
        response_length=6,
        sampler=sampling.Sampler(),
        eos_ids=(EOS,),
        pad_id=PAD,
    )
    return jax.jit(fn)(params, prompts, jax.random.key(0))


def test_masks_come_from_where_a_response_ends_and_not_from_ids(samples):
    lengths = np.sum(samples.response_mask, axis=1)
    ended = ~np.asarray(samples.truncated)
    assert np.sum(ended & (lengths < 6)) > 0
    assert np.all(samples.mask[:, :3])
    for row in np.flatnonzero(ended):
        response = np.asarray(samples.tokens[row, 3:])
        # The EOS counts, though the original's rule, id ≠ pad, would lose it.
        assert response[lengths[row] - 1] == EOS
        assert np.sum(response != PAD) == lengths[row] - 1


def test_a_reward_stands_at_the_eos_though_it_is_the_pad_id(samples):
    rows = samples.tokens.shape[0]
    experience = types.Experience(
        samples=samples,
        ref_logps=samples.logps,
        reward=jnp.full(rows, 2.0),
        costs={},
        reward_values=jnp.zeros((rows, 7)),
        cost_values={},
    )
    rewards, _ = ppo_targets.token_rewards(experience, ppo_config.PPOConfig())
    last = np.sum(samples.response_mask, axis=1) - 1
    expected = 2.0 * (np.arange(6)[None] == last[:, None])
    np.testing.assert_array_equal(rewards, expected)


def test_multipliers_climb_by_projection_unless_told_otherwise():
    assert fragments.multiplier().form == 'projected'
