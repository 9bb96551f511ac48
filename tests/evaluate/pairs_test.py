"""Score models on held-out pairs: by hand, by simulation, and by the stage's own."""

import json

import jax
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import evaluate
from beaver_jax import sharding
from beaver_jax.evaluate import answers as answers_lib
from beaver_jax.evaluate import pairs as pairs_lib
from tests import micro

REWARD = pairs_lib.Pairs(np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [4.0, 0.0]]))
COST = pairs_lib.Pairs(
    np.array([[-1.0, 2.0], [1.0, 0.5], [-2.0, 0.0]]),
    np.array([[1, -1], [1, 0], [-1, -1]]),
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_reward_model_by_hand():
    found = dict(pairs_lib.values(REWARD))
    assert found.keys() == {'accuracy', 'log_loss', 'calibration_error'}
    assert found['accuracy'] == 0.5  # 1 and 4 above 0; of a tie it knows nothing
    assert found['log_loss'] == pytest.approx(
        -np.mean(np.log(sigmoid(np.array([1.0, -3.0, 0.0, 4.0]))))
    )
    # Said 0.731, 0.953, 0.5, 0.982; right 1, 0, ½, 1. The second and the last share the
    # bin above 0.95.
    together = abs((sigmoid(3.0) + sigmoid(4.0)) / 2 - 0.5)
    expected = (abs(sigmoid(1.0) - 1) + 0 + 2 * together) / 4
    assert found['calibration_error'] == pytest.approx(expected)


def test_a_cost_model_by_hand():
    found = dict(pairs_lib.values(COST))
    # The safer one, which comes first, costs less: yes, no, yes.
    assert found['accuracy'] == pytest.approx(2 / 3)
    # Safe: -1 yes, 1 no. Unsafe: 2 yes, -2 no, 0 no. One has no label.
    assert found['accuracy_sign'] == pytest.approx(2 / 5)
    assert found['log_loss_sign'] == pytest.approx(
        -np.mean(np.log(sigmoid(np.array([1.0, -1.0, 2.0, -2.0, 0.0]))))
    )
    told = pairs_lib.summarize(COST)
    assert told['pairs'] == 3
    assert told['intervals'].keys() == {'accuracy', 'accuracy_sign'}
    # 2 of 5, by the definition: P(at least 2 | low) = P(at most 2 | high) = 0.025.
    assert told['intervals']['accuracy_sign'] == pytest.approx(
        [0.05274, 0.85337], abs=1e-5
    )
    classes = told['distributions']['classes']
    assert {name: one['count'] for name, one in classes.items()} == {
        'safe': 2,
        'unsafe': 3,
    }
    assert classes['safe']['mean'] == 0.0 and classes['safe']['std'] == 1.0
    assert classes['unsafe']['quantiles']['0.5'] == 0.0
    for one in classes.values():
        assert sum(one['histogram']) == one['count']
    assert told['distributions']['edges'][0] == -2.0
    assert told['distributions']['edges'][-1] == 2.0


def test_equal_scores_have_a_distribution_too():
    same = pairs_lib.summarize(pairs_lib.Pairs(np.ones((3, 2))))
    assert same['values']['accuracy'] == 0 and same['values']['calibration_error'] == 0
    assert sum(same['distributions']['classes']['better']['histogram']) == 3


def test_calibration_tells_a_model_that_is_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 40_000)
    unsafe = rng.random(logits.size) < sigmoid(logits)
    right = rng.random(logits.size) < sigmoid(logits)

    def errors(scale):
        margins = scale * np.where(right, logits, -logits)
        order = pairs_lib.Pairs(np.stack([margins, 0 * margins], axis=1))
        costs = scale * logits.reshape(-1, 2)
        labels = np.where(unsafe, -1, 1).reshape(-1, 2)
        sign = pairs_lib.Pairs(costs, labels)
        return (
            dict(pairs_lib.values(order))['calibration_error'],
            dict(pairs_lib.values(sign))['calibration_error_sign'],
        )

    assert max(errors(1.0)) < 0.01
    assert min(errors(3.0)) > 0.05
    assert min(errors(0.3)) > 0.05


def test_bins_are_those_of_their_definition():
    rng = np.random.default_rng(1)
    pairs = pairs_lib.Pairs(rng.normal(0, 3, (500, 2)))
    margins = pairs.scores[:, 0] - pairs.scores[:, 1]
    said = sigmoid(np.abs(margins))
    expected = []
    for i in range(10):
        low, high = 0.5 + 0.05 * i, 0.5 + 0.05 * (i + 1)
        inside = (said >= low) & ((said < high) | (i == 9))
        expected.append(
            {
                'count': inside.sum(),
                'said': pytest.approx(said[inside].mean()),
                'found': pytest.approx((margins > 0)[inside].mean()),
            }
        )
    assert pairs_lib.order_calibration(pairs) == expected


# ---- The models of a run ------------------------------------------------------------


@pytest.fixture
def config(configs, chain, tmp_path):
    world = chain / 'world'
    overrides = {
        'run': tmp_path / 'run',
        'data.world': False,
        'data.prompts_test': world / 'prompts_test.jsonl',
        'data.reward_pairs_test': world / 'pairs_test.jsonl',
        'data.cost_pairs_test': world / 'pairs_test.jsonl',
        'reward.init': chain / 'reward',
        'costs.harm.init': chain / 'cost',
        'kl': False,
        'batch_size': 24,  # does not divide the pairs
    }
    return config_lib.from_argv(micro.arguments(configs, 'evaluate', overrides))


@pytest.mark.parametrize(
    ('name', 'stage'), [('reward', 'reward'), ('costs.harm', 'cost')]
)
def test_accuracies_are_those_that_training_measured(config, chain, name, stage):
    trained = json.loads((chain / stage / 'config.json').read_text())
    measured = json.loads((chain / stage / 'summary.json').read_text())['metrics']
    with config.unlocked():
        config.reward.max_length = trained['max_length']
        config.costs.harm.max_length = trained['max_length']
    mesh = sharding.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        scorer = answers_lib.Scorer(config, mesh, '')
        found = scorer.pairs(name, evaluate.held_out_pairs(config)[name])
    values = dict(pairs_lib.values(found))
    keys = {key for key in measured if key.startswith('accuracy')}
    assert keys >= {'accuracy'} and (stage == 'reward' or 'accuracy_sign' in keys)
    for key in keys:
        assert values[key] == pytest.approx(measured[key], abs=1e-6)


def test_a_share_is_held_out_where_no_file_is_named(config):
    whole = len(evaluate.held_out_pairs(config)['reward'])
    config.data.reward_pairs = config.data.reward_pairs_test
    config.data.reward_pairs_test = config.data.cost_pairs_test = ''
    config.data.cost_pairs = ''
    found = evaluate.held_out_pairs(config)
    assert found.keys() == {'reward'}
    assert 0 < len(found['reward']) < whole / 3
    config.data.reward_pairs = ''
    assert evaluate.held_out_pairs(config) == {}
