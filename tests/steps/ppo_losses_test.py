"""Losses and gradients of the actor and of a critic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.losses import masked
from beaver_jax.steps import ppo_losses
from beaver_jax.steps import sft
from beaver_jax.steps import state as state_lib
from tests.steps import rollouts

ADVANTAGES = rollouts.random(20, 4, rollouts.RESPONSE)


def test_scored_by_the_sampled_policy_nothing_is_clipped():
    samples = rollouts.experience().samples
    for temperature in (1.0, 0.7):
        own = samples.replace(logps=rollouts.sample_logps('actor', temperature))
        _, metrics = rollouts.actor_gradients(own, ADVANTAGES, temperature=temperature)
        assert metrics['train/clip_fraction'] == 0
        assert metrics[ppo_losses.ROLLOUT_GAP] < 1e-6
        # All ratios are 1, for there is no dropout: the loss is the mean advantage.
        expected = -masked.masked_mean(ADVANTAGES, own.response_mask)
        np.testing.assert_allclose(metrics['train/actor_loss'], expected, rtol=1e-5)
    # Scored at another temperature, as in the original, the ratios are not 1.
    _, metrics = rollouts.actor_gradients(own, ADVANTAGES, temperature=1.0)
    assert metrics['train/clip_fraction'] > 0
    gap = jnp.abs(own.logps - rollouts.sample_logps('actor'))
    expected = masked.masked_mean(gap, own.response_mask)
    np.testing.assert_allclose(metrics[ppo_losses.ROLLOUT_GAP], expected, rtol=1e-5)


def test_padding_changes_neither_loss_nor_gradients():
    samples, wide = rollouts.experience().samples, (2, 1)

    def pad(x, value, before=0):
        return jnp.pad(x, ((0, 0), (before, wide[1])), constant_values=value)

    padded = types.Samples(
        tokens=pad(samples.tokens, 7, wide[0]),  # the pad id does not matter
        mask=pad(samples.mask, False, wide[0]),
        response_mask=pad(samples.response_mask, False),
        logps=pad(samples.logps, -1e9),
        truncated=samples.truncated,
    )
    expected = rollouts.actor_gradients(samples, ADVANTAGES)
    found = rollouts.actor_gradients(padded, pad(ADVANTAGES, 1e9))
    rollouts.assert_close(found, expected)


@pytest.mark.parametrize('parts, per_token', [(2, False), (4, False), (2, True)])
def test_parts_change_nothing(parts, per_token):
    args = rollouts.experience().samples, ADVANTAGES, rollouts.supervised()
    fields = {'per_token_mean': per_token, 'ptx_coeff': 0.5}
    expected = rollouts.actor_gradients(*args, **fields)
    rollouts.assert_close(
        rollouts.actor_gradients(*args, **fields, parts=parts), expected
    )


def test_ptx_adds_its_gradient_times_its_coefficient():
    samples = rollouts.experience().samples
    both, metrics = rollouts.actor_gradients(
        samples, ADVANTAGES, rollouts.supervised(), per_token_mean=False, ptx_coeff=0.5
    )
    model, params = rollouts.actor()
    loss_fn = functools.partial(sft.sft_loss, model=model)
    ptx, found, _ = jax.jit(functools.partial(state_lib.gradients, loss_fn))(
        params, rollouts.supervised()
    )
    alone, _ = rollouts.actor_gradients(samples, ADVANTAGES)
    # The sum; the original's doubled accumulation window takes half of it.
    rollouts.assert_close(both, jax.tree.map(lambda x, y: x + 0.5 * y, alone, ptx))
    np.testing.assert_allclose(
        metrics['train/ptx_loss'], found['train/loss'], rtol=1e-6
    )


def test_the_critic_learns_its_returns():
    model, params = rollouts.critic()
    samples = rollouts.experience().samples
    mask = samples.response_mask
    values = scoring.response_values(
        model, params, samples.tokens, samples.mask, response_length=rollouts.RESPONSE
    )[:, :-1]
    loss_fn = jax.jit(
        functools.partial(ppo_losses.critic_loss, model=model, config=rollouts.CONFIG)
    )
    for distance in (0.0, 2.0):
        # ½·2² where the values are 2 away from their returns.
        loss, _ = loss_fn(params, (samples, values, values + distance))
        np.testing.assert_allclose(loss, distance**2 / 2, atol=1e-6)
    _, aux = loss_fn(params, (samples, values, values))
    expected = masked.masked_mean(values, mask)
    np.testing.assert_allclose(aux.metrics['value'], expected, rtol=1e-5)
