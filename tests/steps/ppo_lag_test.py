"""Whole steps of PPO-Lagrangian and of its settings, PPO and shaping."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from beaver_jax import multiplier
from beaver_jax import optim
from beaver_jax.rollout import packs
from beaver_jax.steps import ppo_lag
from beaver_jax.steps import ppo_targets
from tests.steps import rollouts


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
        batch, make_optimizers(SGD), rollouts.CONFIG, multipliers={'harm': 0.0}
    )
    assert lagrangian.multiplier.params == {'harm': 0}
    (ppo, ppo_metrics), _ = run(
        rollouts.experience(),
        make_optimizers(SGD, constraints=False),
        rollouts.CONFIG,
        multipliers={},
    )
    rollouts.assert_close(lagrangian.actor.params, ppo.actor.params)
    rollouts.assert_close(lagrangian.reward_critic.params, ppo.reward_critic.params)
    rollouts.assert_close({name: metrics[name] for name in ppo_metrics}, ppo_metrics)
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
    config = dataclasses.replace(rollouts.CONFIG, epochs=3, minibatches=2)
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
    targets, _ = ppo_targets.make_targets(batch, rollouts.CONFIG)
    value = {name: float(x) for name, x in state.multiplier.params.items()}
    # (A_r - λ_1·A_1 - λ_2·A_2) / (1 + λ_1 + λ_2)
    advantages = (
        targets.reward_advantages
        - value['harm'] * targets.cost_advantages['harm']
        - value['lies'] * targets.cost_advantages['lies']
    ) / (1 + value['harm'] + value['lies'])
    expected, _ = rollouts.actor_gradients(batch.samples, advantages)
    total, count = state.actor.opt_state
    # 3 epochs of 2 minibatches; each row is in one minibatch of every epoch.
    assert count == 6
    rollouts.assert_close(jax.tree.map(lambda x: x / 6, total), expected)


@pytest.mark.parametrize('parts', [1, 2])
def test_packs_change_nothing(two_constraints, parts):
    batch, expected, expected_metrics, _ = two_constraints
    config = dataclasses.replace(rollouts.CONFIG, epochs=3, minibatches=2, parts=parts)
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
    rollouts.assert_close(state.actor.opt_state, expected.actor.opt_state)
    rollouts.assert_close(state.reward_critic.params, expected.reward_critic.params)
    rollouts.assert_close(state.cost_critics, expected.cost_critics)
    rollouts.assert_close(metrics, expected_metrics)


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
    np.testing.assert_allclose(
        metrics['train/effective_kl_coeff'], rollouts.CONFIG.kl_coeff
    )
    # Responses of 4, 1, 2 and 4 tokens, one of four cut by length.
    assert metrics['train/mean_generated_length'] == 11 / 4
    assert metrics['train/max_generated_length'] == 4
    assert metrics['train/truncated_share'] == 0.25


def test_one_measured_cost_of_shaping_has_plain_names_and_no_multiplier():
    batch = rollouts.experience('harm', constraints=())
    config = dataclasses.replace(rollouts.CONFIG, shaping={'harm': 0.5})
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
