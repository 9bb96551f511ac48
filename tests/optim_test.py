"""Tests of optimizer chains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from beaver_jax import optim
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.steps import state as state_lib
from tests import tiny


def rates(steps, **fields):
    schedule = optim.schedule(optim.OptimizerConfig(**fields), steps)
    return [float(schedule(step)) for step in range(steps)]


def test_warm_up_rises_from_above_zero_to_the_peak():
    # Half of 8 steps: from 5/5 = 1 in four equal steps to 5, where the constant begins.
    found = rates(8, learning_rate=5.0, schedule='constant', warmup_ratio=0.5)
    np.testing.assert_allclose(found, [1, 2, 3, 4, 5, 5, 5, 5], rtol=1e-6)


def test_linear_decay_after_the_warm_up():
    # One step of warm-up at 4/2, then 4·(1 - i/4) for i = 0 … 3.
    found = rates(5, learning_rate=4.0, schedule='linear', warmup_ratio=0.2)
    np.testing.assert_allclose(found, [2, 4, 3, 2, 1], rtol=1e-6)


def test_cosine_decay():
    # ½·(1 + cos(π·i/4)): 1, (1 + √½)/2, ½, (1 - √½)/2
    found = rates(4, learning_rate=1.0, schedule='cosine', warmup_ratio=0.0)
    root = np.sqrt(0.5)
    np.testing.assert_allclose(found, [1, (1 + root) / 2, 0.5, (1 - root) / 2], 1e-6)


def test_a_run_of_one_step_has_a_rate():
    assert rates(1, learning_rate=2.0, warmup_ratio=0.03) == [2.0]


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'schedule': 'cosin'}, r"schedule='cosin'; known: \('constant', 'cosine'"),
        ({'learning_rate': 0.0}, r'learning_rate=0.0; must be above 0\.'),
        ({'learning_rate': float('nan')}, r'learning_rate=nan; must be above 0\.'),
        ({'warmup_ratio': 1.5}, r'warmup_ratio=1.5; must be in \[0, 1\]\.'),
        ({'weight_decay': -0.1}, r'weight_decay=-0.1; must not be negative\.'),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        optim.OptimizerConfig(**({'learning_rate': 1.0} | changes))


def test_matrices_decay_and_biases_and_norms_do_not():
    config = config_lib.ScoreConfig(backbone=tiny.config(qkv_bias=True, o_bias=True))
    params = hf.abstract_params(score.ScoreModel(config))
    decays = {
        jax.tree_util.keystr(path, simple=True, separator='/'): decays
        for path, decays in jax.tree_util.tree_leaves_with_path(
            optim.decay_mask(params)
        )
    }
    spared = {name for name, decays in decays.items() if not decays}
    assert spared == {
        'backbone/final_norm/scale',
        'backbone/layers/attention_norm/scale',
        'backbone/layers/mlp_norm/scale',
        *(f'backbone/layers/attention/{name}/bias' for name in 'qkvo'),
        'score_head/bias',
    }
    assert {'backbone/embed/embedding', 'score_head/kernel'} <= decays.keys() - spared


def optimizer(**fields):
    settings = {'learning_rate': 0.1, 'schedule': 'constant', 'warmup_ratio': 0.0}
    return optim.make_optimizer(optim.OptimizerConfig(**(settings | fields)), 10)


PARAMS = {'kernel': jnp.array([[2.0]]), 'bias': jnp.array([2.0])}
STILL = {'kernel': jnp.zeros((1, 1)), 'bias': jnp.zeros(1)}


def test_weight_decay_is_decoupled_and_scaled_by_the_rate():
    learner = state_lib.init_learner(PARAMS, optimizer(weight_decay=0.5))
    learner = state_lib.apply_gradients(learner, STILL, optimizer(weight_decay=0.5))
    # Without gradient: 2 - 0.1·0.5·2 = 1.9; the bias stays.
    np.testing.assert_allclose(learner.params['kernel'], [[1.9]], rtol=1e-6)
    np.testing.assert_array_equal(learner.params['bias'], [2.0])


def test_the_first_update_is_the_sign_times_the_rate():
    move = optimizer(clip_norm=None)
    learner = state_lib.init_learner(PARAMS, move)
    gradient = {'kernel': jnp.array([[3.0]]), 'bias': jnp.array([-0.5])}
    learner = state_lib.apply_gradients(learner, gradient, move)
    # Adam, bias corrected: m/√v = g/|g|.
    np.testing.assert_allclose(learner.params['kernel'], [[1.9]], rtol=1e-6)
    np.testing.assert_allclose(learner.params['bias'], [2.1], rtol=1e-6)


def moments(opt_state):
    (found,) = (
        leaf
        for leaf in jax.tree.leaves(
            opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
        )
        if isinstance(leaf, optax.ScaleByAdamState)
    )
    return found


def test_gradients_are_clipped_to_a_global_norm():
    move = optimizer(clip_norm=1.0)
    learner = state_lib.init_learner(PARAMS, move)
    gradient = {'kernel': jnp.array([[3.0]]), 'bias': jnp.array([4.0])}
    learner = state_lib.apply_gradients(learner, gradient, move)
    # Of norm 5, so 3/5 and 4/5 enter the first moment with weight 1 - 0.9.
    first = moments(learner.opt_state).mu
    np.testing.assert_allclose(first['kernel'], [[0.06]], rtol=1e-6)
    np.testing.assert_allclose(first['bias'], [0.08], rtol=1e-6)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_non_finite_gradients_are_skipped_and_counted(bad):
    move = optimizer(clip_norm=1.0)
    learner = state_lib.init_learner(PARAMS, move)
    broken = {'kernel': jnp.array([[bad]]), 'bias': jnp.array([1.0])}
    step = jax.jit(
        lambda learner, gradient: state_lib.apply_gradients(learner, gradient, move)
    )
    for count in (1, 2):
        learner = step(learner, broken)
        assert state_lib.bad_steps(learner) == count
    np.testing.assert_array_equal(learner.params['kernel'], PARAMS['kernel'])
    np.testing.assert_array_equal(learner.params['bias'], PARAMS['bias'])
    assert moments(learner.opt_state).count == 0
    whole = {'kernel': jnp.array([[1.0]]), 'bias': jnp.array([1.0])}
    learner = step(learner, whole)
    assert state_lib.bad_steps(learner) == 0
    assert learner.params['kernel'] < PARAMS['kernel']
