"""Tests of the update of PPO-Lagrangian and of its settings, PPO and shaping."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from beaver_jax import multiplier
from beaver_jax import optim
from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.losses import masked
from beaver_jax.rollout import packs
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from beaver_jax.steps import ppo_losses
from beaver_jax.steps import ppo_targets
from beaver_jax.steps import sft
from beaver_jax.steps import state as state_lib
from tests.steps import rollouts

CONFIG = ppo_config.PPOConfig(kl_coeff=0.1)


def assert_close(one, other, rtol=1e-4, atol=1e-6):
    check = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(check, one, other)


# Targets: no model needed.


def short_rollout(**changes):
    """One row of two response tokens, cut by length, with numbers for the hand."""
    samples = types.Samples(
        tokens=jnp.array([[5, 6, 7]]),
        mask=jnp.ones((1, 3), bool),
        response_mask=jnp.ones((1, 2), bool),
        logps=jnp.array([[-1.0, -2.0]]),
        truncated=jnp.array([True]),
    )
    fields = {
        'samples': samples,
        'ref_logps': jnp.array([[-2.0, -1.0]]),  # kl is 1, -1
        'reward': jnp.array([3.0]),
        'costs': {'harm': jnp.array([2.0])},
        'reward_values': jnp.array([[0.5, 1.0, 4.0]]),
        'cost_values': {'harm': jnp.array([[0.0, 1.0, 6.0]])},
    }
    return types.Experience(**(fields | changes))


HAND = ppo_config.PPOConfig(kl_coeff=0.5, gae_lambda=1.0)


def test_divergence_enters_both_streams():
    rewards, costs = ppo_targets.token_rewards(short_rollout(), HAND)
    # -0.5·1;  -0.5·-1 + 3     and     +0.5·1;  +0.5·-1 + 2
    np.testing.assert_allclose(rewards, [[-0.5, 3.5]])
    np.testing.assert_allclose(costs['harm'], [[0.5, 1.5]])


def test_a_cut_response_is_terminal_as_in_the_original():
    targets, metrics = ppo_targets.make_targets(short_rollout(), HAND)
    # Returns are sums of rewards: 3 and 3.5; advantages less the values 0.5 and 1.
    np.testing.assert_allclose(targets.reward_returns, [[3, 3.5]])
    np.testing.assert_allclose(targets.reward_advantages, [[2.5, 2.5]])
    # Of costs: 2 and 1.5, less 0 and 1.
    np.testing.assert_allclose(targets.cost_advantages['harm'], [[2, 0.5]])
    assert metrics['train/reward_with_kl_penalty'] == 3
    assert metrics['train/cost_with_kl_penalty/harm'] == 2
    assert metrics['train/reward_advantage'] == 2.5
    assert metrics['train/cost_return/harm'] == 1.75


def test_or_it_goes_on_with_the_value_and_no_score():
    config = dataclasses.replace(HAND, truncation='bootstrap')
    targets, _ = ppo_targets.make_targets(short_rollout(), config)
    # Rewards -0.5, 0.5, then V = 4 in place of the score: 4 and 4.5.
    np.testing.assert_allclose(targets.reward_returns, [[4, 4.5]])
    # Costs 0.5, -0.5, then V = 6: 6 and 5.5.
    np.testing.assert_allclose(targets.cost_returns['harm'], [[6, 5.5]])


def test_shaping_subtracts_costs_from_the_reward():
    config = dataclasses.replace(HAND, shaping={'harm': 0.25})
    rewards, costs = ppo_targets.token_rewards(short_rollout(cost_values={}), config)
    # The end is 0.5 + 3 - 0.25·2; no stream of costs remains.
    np.testing.assert_allclose(rewards, [[-0.5, 3.0]])
    assert costs == {}


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'kl_coeff': -0.1}, 'kl_coeff=-0.1; must not be negative'),
        ({'ptx_coeff': float('nan')}, 'ptx_coeff=nan; must not be negative'),
        ({'clip_ratio': 0.0}, 'clip_ratio=0.0; must be above 0'),
        ({'temperature': 0.0}, 'temperature=0.0; must be above 0'),
        ({'gamma': 1.5}, r'gamma=1.5; must be in \[0, 1\]'),
        ({'epochs': 0}, 'epochs=0; must be at least 1'),
        ({'truncation': 'drop'}, "truncation='drop'; known: .*'bootstrap'"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ppo_config.PPOConfig(**fields)


# Losses and gradients of the actor and of a critic.


@functools.cache
def compiled(**fields):
    """(parameters, batch) to (gradients, metrics), with these fields of the config."""
    model, _ = rollouts.actor()
    config = dataclasses.replace(CONFIG, **fields)
    fn = functools.partial(ppo_lag.actor_gradients, model=model, config=config)
    return jax.jit(fn)


def actor_gradients(samples, advantages, ptx=None, **fields):
    _, params = rollouts.actor()
    return compiled(**fields)(params, (samples, advantages, ptx))


ADVANTAGES = rollouts.random(20, 4, rollouts.RESPONSE)


def test_scored_by_the_sampled_policy_nothing_is_clipped():
    samples = rollouts.experience().samples
    for temperature in (1.0, 0.7):
        own = samples.replace(logps=rollouts.sample_logps('actor', temperature))
        _, metrics = actor_gradients(own, ADVANTAGES, temperature=temperature)
        assert metrics['train/clip_fraction'] == 0
        assert metrics[ppo_losses.ROLLOUT_GAP] < 1e-6
        # All ratios are 1, for there is no dropout: the loss is the mean advantage.
        expected = -masked.masked_mean(ADVANTAGES, own.response_mask)
        np.testing.assert_allclose(metrics['train/actor_loss'], expected, rtol=1e-5)
    # Scored at another temperature, as in the original, the ratios are not 1.
    _, metrics = actor_gradients(own, ADVANTAGES, temperature=1.0)
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
    expected = actor_gradients(samples, ADVANTAGES)
    found = actor_gradients(padded, pad(ADVANTAGES, 1e9))
    assert_close(found, expected)


@pytest.mark.parametrize('parts, per_token', [(2, False), (4, False), (2, True)])
def test_parts_change_nothing(parts, per_token):
    args = rollouts.experience().samples, ADVANTAGES, rollouts.supervised()
    fields = {'per_token_mean': per_token, 'ptx_coeff': 0.5}
    expected = actor_gradients(*args, **fields)
    assert_close(actor_gradients(*args, **fields, parts=parts), expected)


def test_ptx_adds_its_gradient_times_its_coefficient():
    samples = rollouts.experience().samples
    both, metrics = actor_gradients(
        samples, ADVANTAGES, rollouts.supervised(), per_token_mean=False, ptx_coeff=0.5
    )
    model, params = rollouts.actor()
    loss_fn = functools.partial(sft.sft_loss, model=model)
    ptx, found, _ = jax.jit(functools.partial(state_lib.gradients, loss_fn))(
        params, rollouts.supervised()
    )
    alone, _ = actor_gradients(samples, ADVANTAGES)
    # The sum; the original's doubled accumulation window takes half of it.
    assert_close(both, jax.tree.map(lambda x, y: x + 0.5 * y, alone, ptx))
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
        functools.partial(ppo_losses.critic_loss, model=model, config=CONFIG)
    )
    for distance in (0.0, 2.0):
        # ½·2² where the values are 2 away from their returns.
        loss, _ = loss_fn(params, (samples, values, values + distance))
        np.testing.assert_allclose(loss, distance**2 / 2, atol=1e-6)
    _, aux = loss_fn(params, (samples, values, values))
    expected = masked.masked_mean(values, mask)
    np.testing.assert_allclose(aux.metrics['value'], expected, rtol=1e-5)


# Whole steps.


def make_optimizers(actor_optimizer, *, excess_rate=0.1, constraints=True):
    ascent = optax.chain(optax.scale(excess_rate), multiplier.projected_ascent(5.0))
    return ppo_lag.Optimizers(
        actor_optimizer, optax.sgd(0.1), ascent if constraints else None
    )


def run(batch, optimizers, config, *, multipliers, key=0, ptx=None):
    """A step from the tiny models; the costs of `batch` enter a window of 3."""
    names = tuple(batch.cost_values)
    actor_model, actor_params = rollouts.actor()
    critics = {name: rollouts.critic(2 + i) for i, name in enumerate(names)}
    state = ppo_lag.init(
        {
            'actor': actor_params,
            'reward_critic': rollouts.critic()[1],
            'cost_critics': {name: found[1] for name, found in critics.items()},
        },
        optimizers,
        multipliers=multipliers,
        costs=tuple(batch.costs),
        window=3,
    )
    networks = ppo_lag.Networks(
        actor_model,
        rollouts.critic()[0],
        {name: found[0] for name, found in critics.items()},
    )
    step = jax.jit(
        functools.partial(
            ppo_lag.ppo_lag_step,
            networks=networks,
            optimizers=optimizers,
            config=config,
            thresholds=dict.fromkeys(names, 0.5),
        )
    )
    return step(state, (batch, ptx), jax.random.key(key)), (step, state)


SGD = optax.sgd(0.1)


def test_with_multiplier_0_it_is_ppo():
    # The cost lies far below the threshold, so that λ stays 0.
    batch = rollouts.experience('harm').replace(costs={'harm': jnp.full(4, -9.0)})
    (lagrangian, metrics), _ = run(
        batch, make_optimizers(SGD), CONFIG, multipliers={'harm': 0.0}
    )
    assert lagrangian.multiplier.params == {'harm': 0}
    (ppo, ppo_metrics), _ = run(
        rollouts.experience(),
        make_optimizers(SGD, constraints=False),
        CONFIG,
        multipliers={},
    )
    assert_close(lagrangian.actor.params, ppo.actor.params)
    assert_close(lagrangian.reward_critic.params, ppo.reward_critic.params)
    assert_close({name: metrics[name] for name in ppo_metrics}, ppo_metrics)
    # The critic of the cost learns all the same.
    assert metrics['train/cost_critic_grad_norm/harm'] > 0
    assert not any('cost' in name or 'lambda' in name for name in ppo_metrics)
    assert metrics['train/cost'] == metrics['train/cost/harm'] == -9


def gradient_sum() -> optax.GradientTransformation:
    """Moves nothing; its state is the sum and the number of all gradients."""

    def update(gradients, state, params=None):
        del params
        total, count = state
        total = jax.tree.map(jnp.add, total, gradients)
        return jax.tree.map(jnp.zeros_like, gradients), (total, count + 1)

    return optax.GradientTransformation(
        lambda params: (jax.tree.map(jnp.zeros_like, params), jnp.zeros(())), update
    )


@pytest.fixture(scope='module')
def two_constraints():
    """A step of 3 epochs of 2 minibatches, with two costs that are constrained."""
    batch = rollouts.experience('harm', 'lies')
    config = dataclasses.replace(CONFIG, epochs=3, minibatches=2)
    (state, metrics), again = run(
        batch,
        make_optimizers(gradient_sum()),
        config,
        multipliers={'harm': 1.0, 'lies': 0.5},
    )
    return batch, state, metrics, again


def test_multipliers_move_once_per_rollout_from_the_last_costs(two_constraints):
    batch, state, metrics, _ = two_constraints
    # Six updates of the policy, one of λ: λ + 0.1·(mean of the last 3 - 0.5).
    for name, start in (('harm', 1.0), ('lies', 0.5)):
        mean = np.mean(batch.costs[name][1:])
        expected = start + 0.1 * (mean - 0.5)
        np.testing.assert_allclose(state.multiplier.params[name], expected, rtol=1e-6)
        np.testing.assert_allclose(metrics[f'train/episode_cost/{name}'], mean, 1e-6)
        assert metrics[f'train/lambda/{name}'] == state.multiplier.params[name]
        assert metrics[f'train/threshold/{name}'] == 0.5
        assert state.cost_windows[name].count == 4
    assert state.step == 1


def test_minibatches_of_an_epoch_are_the_batch_under_the_new_multipliers(
    two_constraints,
):
    batch, state, _, _ = two_constraints
    targets, _ = ppo_targets.make_targets(batch, CONFIG)
    value = {name: float(x) for name, x in state.multiplier.params.items()}
    # (A_r - λ_1·A_1 - λ_2·A_2) / (1 + λ_1 + λ_2)
    advantages = (
        targets.reward_advantages
        - value['harm'] * targets.cost_advantages['harm']
        - value['lies'] * targets.cost_advantages['lies']
    ) / (1 + value['harm'] + value['lies'])
    expected, _ = actor_gradients(batch.samples, advantages)
    total, count = state.actor.opt_state
    # 3 epochs of 2 minibatches; each row is in one minibatch of every epoch.
    assert count == 6
    assert_close(jax.tree.map(lambda x: x / 6, total), expected)


@pytest.mark.parametrize('parts', [1, 2])
def test_packs_change_nothing(two_constraints, parts):
    batch, expected, expected_metrics, _ = two_constraints
    config = dataclasses.replace(CONFIG, epochs=3, minibatches=2, parts=parts)
    orders = ppo_lag.minibatch_orders(jax.random.key(0), 4, config)
    packed = packs.pack(
        jax.device_get(batch.samples),
        np.asarray(orders),
        devices=1,
        parts=parts,
        sizes=2,
    )
    (state, metrics), _ = run(
        batch.replace(samples=batch.samples.replace(packs=packed)),
        make_optimizers(gradient_sum()),
        config,
        multipliers={'harm': 1.0, 'lies': 0.5},
    )
    assert_close(state.actor.opt_state, expected.actor.opt_state)
    assert_close(state.reward_critic.params, expected.reward_critic.params)
    assert_close(state.cost_critics, expected.cost_critics)
    assert_close(metrics, expected_metrics)


def test_the_key_decides_the_order_of_the_rows(two_constraints):
    batch, state, _, (step, start) = two_constraints
    same, _ = step(start, (batch, None), jax.random.key(0))
    other, _ = step(start, (batch, None), jax.random.key(1))
    critics = [x.reward_critic.params for x in (state, same, other)]
    leaves = [np.concatenate([x.ravel() for x in jax.tree.leaves(c)]) for c in critics]
    np.testing.assert_array_equal(leaves[1], leaves[0])
    assert np.any(leaves[2] != leaves[0])


def test_of_two_costs_no_plain_names_are_logged(two_constraints):
    *_, metrics, _ = two_constraints
    assert 'train/lambda/lies' in metrics
    assert not {'train/lambda', 'train/cost', 'train/episode_cost'} & metrics.keys()
    np.testing.assert_allclose(metrics['train/effective_kl_coeff'], CONFIG.kl_coeff)
    # Responses of 4, 1, 2 and 4 tokens, one of four cut by length.
    assert metrics['train/mean_generated_length'] == 11 / 4
    assert metrics['train/max_generated_length'] == 4
    assert metrics['train/truncated_share'] == 0.25


def test_one_measured_cost_of_shaping_has_plain_names_and_no_multiplier():
    batch = rollouts.experience('harm', constraints=())
    config = dataclasses.replace(CONFIG, shaping={'harm': 0.5})
    optimizer = optim.make_optimizer(optim.OptimizerConfig(learning_rate=0.1), 10)
    # A reward that is not a number besides: the update is skipped and counted.
    batch = batch.replace(reward=batch.reward.at[0].set(jnp.nan))
    (state, metrics), _ = run(
        batch, make_optimizers(optimizer, constraints=False), config, multipliers={}
    )
    np.testing.assert_allclose(
        metrics['train/cost'], np.mean(batch.costs['harm']), 1e-6
    )
    assert 'train/lambda' not in metrics
    assert metrics['train/bad_steps'] == 1
    jax.tree.map(np.testing.assert_array_equal, state.actor.params, rollouts.actor()[1])


def test_multipliers_wait_for_their_delay():
    optimizers = make_optimizers(SGD)
    delayed = dataclasses.replace(
        optimizers, multiplier=optax.chain(multiplier.delay(1), optimizers.multiplier)
    )
    state = ppo_lag.init(
        {'actor': (), 'reward_critic': (), 'cost_critics': {'harm': ()}},
        delayed,
        multipliers={'harm': 1.0},
        costs=('harm', 'length'),
        window=2,
    )
    found = []
    for cost in (3.0, 2.0):
        costs = {'harm': jnp.array([cost]), 'length': jnp.array([7.0])}
        state = ppo_lag.move_multipliers(state, costs, {'harm': 0.5}, delayed)
        found.append(float(state.multiplier.params['harm']))
    # Held once though its cost entered the window; then 1 + 0.1·((3 + 2)/2 - 0.5).
    np.testing.assert_allclose(found, [1, 1.2], rtol=1e-6)
    # A cost without a multiplier is only measured.
    assert multiplier.window_mean(state.cost_windows['length']) == 7
