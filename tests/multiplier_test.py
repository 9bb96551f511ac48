"""Tests of the multipliers' transforms and of the cost window."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from beaver_jax import multiplier


def move(optimizer, value, *gradients):
    """λ after each of the gradients Ĉ - d."""
    params = {'harm': jnp.float32(value)}
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(
            {'harm': jnp.float32(gradient)}, state, params
        )
        params = optax.apply_updates(params, updates)
        found.append(float(params['harm']))
    return found


def projected(learning_rate=1.0, max_value=None):
    return optax.chain(
        optax.scale(learning_rate), multiplier.projected_ascent(max_value)
    )


def log_space(learning_rate=1.0, max_value=None):
    return optax.chain(
        optax.scale(learning_rate), multiplier.log_space_ascent(max_value)
    )


def test_projected_ascent_climbs_the_excess():
    # 1 + 0.1·2 = 1.2;  1.2 - 0.1·5 = 0.7
    np.testing.assert_allclose(move(projected(0.1), 1.0, 2.0, -5.0), [1.2, 0.7])


def test_projected_ascent_stays_between_its_bounds():
    # 1 - 3 → 0;  0 - 1 → 0;  0 + 0.5;  0.5 + 9 → 2;  2 - 0.5
    found = move(projected(max_value=2.0), 1.0, -3.0, -1.0, 0.5, 9.0, -0.5)
    np.testing.assert_array_equal(found, [0, 0, 0.5, 2, 1.5])


def test_projected_ascent_without_an_upper_bound():
    assert move(projected(), 1.0, 100.0) == [101.0]


def test_log_space_multiplies():
    # log 2 + 0.1·2·3 = log 2 + 0.6: λ = 2·e^0.6.
    (found,) = move(log_space(0.1), 2.0, 3.0)
    assert found == pytest.approx(2 * math.exp(0.6), rel=1e-6)


def test_log_space_is_gradient_ascent_on_the_log():
    # d/dlog λ of λ·(Ĉ - d) = λ·(Ĉ - d), climbed with η = 0.1.
    excess, log_value = 0.7, jnp.log(jnp.float32(1.5))
    slope = jax.grad(lambda x: jnp.exp(x) * excess)(log_value)
    (found,) = move(log_space(0.1), 1.5, excess)
    assert found == pytest.approx(float(jnp.exp(log_value + 0.1 * slope)), rel=1e-6)


def test_log_space_is_clamped_from_above_only():
    # 1·e^9 → 3;  3·e^(-3·2) = 3·e^-6, which no bound stops.
    found = move(log_space(max_value=3.0), 1.0, 9.0, -2.0)
    np.testing.assert_allclose(found, [3, 3 * math.exp(-6)], rtol=1e-5)


def test_in_log_space_zero_stays_zero_where_projection_recovers():
    assert move(log_space(), 0.0, 5.0, 5.0) == [0, 0]
    assert move(projected(), 0.0, 5.0) == [5]


def test_in_log_space_a_small_multiplier_hardly_moves():
    # λ·(e^(λ·u) - 1) ≈ λ²·u = 0.01²·1, where projection moves by 1.
    (found,) = move(log_space(), 0.01, 1.0)
    assert found - 0.01 == pytest.approx(1e-4, rel=0.01)


def test_delay_holds_the_first_updates():
    optimizer = optax.chain(multiplier.delay(2), projected())
    assert move(optimizer, 1.0, 5.0, 5.0, 5.0, -1.0) == [1, 1, 6, 5]


def test_constraints_move_apart():
    values = {'a': jnp.float32(1.0), 'b': jnp.float32(2.0)}
    optimizer = projected(max_value=2.5)
    excess = {'a': jnp.float32(-0.25), 'b': jnp.float32(1.0)}
    updates, _ = optimizer.update(excess, optimizer.init(values), values)
    assert optax.apply_updates(values, updates) == {'a': 0.75, 'b': 2.5}


def test_an_empty_window_has_mean_zero():
    assert multiplier.window_mean(multiplier.init_window(3)) == 0


def windows(size, *batches):
    """The mean after each batch."""
    window = multiplier.init_window(size)
    for batch in batches:
        window = multiplier.push_costs(window, jnp.array(batch))
        yield float(multiplier.window_mean(window))


def test_the_window_fills_and_then_forgets_the_oldest():
    # Of 4: 1, 2 | 1, 2, 3 | 1, 2, 3 and 8, 9 without 1: 2, 3, 8, 9 | 8, 9, 0, 1
    found = list(windows(4, [1.0, 2.0], [3.0], [8.0, 9.0], [0.0, 1.0]))
    assert found == [1.5, 2.0, 22 / 4, 18 / 4]


def test_of_a_batch_larger_than_the_window_the_last_stay():
    # 1 | 3, 4, 5 of five | 4, 5, 6
    assert list(windows(3, [1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [6.0])) == [1, 4, 5]


def test_the_ring_is_the_tail_of_all_costs_for_any_batches():
    rng = np.random.default_rng(0)
    batches = [rng.integers(-9, 9, size) for size in (1, 3, 7, 2, 12, 5, 1, 4)]
    costs = np.concatenate(batches)
    seen = np.cumsum([len(batch) for batch in batches])
    expected = [costs[max(0, end - 5) : end].mean() for end in seen]
    found = list(windows(5, *(batch.astype(np.float32) for batch in batches)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_window_is_global_however_the_costs_are_spread():
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices, ('data',))
    costs = jnp.arange(2.0 * len(devices))
    spread = jax.device_put(
        costs, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    )
    push = jax.jit(multiplier.push_costs)
    one = push(multiplier.init_window(5), costs)
    other = push(multiplier.init_window(5), spread)
    # The last five of 0 … 15: 11 … 15, once, not once per device.
    assert multiplier.window_mean(one) == 13
    assert len(devices) == 8
    np.testing.assert_array_equal(other.costs, one.costs)
    assert other.count == 16


def test_excess_by_constraint():
    costs = {'a': jnp.array([1.0, 3.0]), 'b': jnp.array([-1.0])}
    filled = {
        name: multiplier.push_costs(multiplier.init_window(4), values)
        for name, values in costs.items()
    }
    # 2 - 0.5 and -1 - 0
    found = multiplier.excess(filled, {'a': 0.5, 'b': 0.0})
    assert found == {'a': 1.5, 'b': -1.0}
