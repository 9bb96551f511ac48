"""Score models on held-out pairs: by hand, by simulation, and by the stage's own."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax.data import sources
from beaver_jax.evaluate import answers as answers_lib
from beaver_jax.evaluate import pairs as pairs_lib
from beaver_jax.stages import held_out
from beaver_jax.stages import inputs
from beaver_jax.stages import records
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
    # 2 of 3: p³ + 3p²(1 - p) = 0.025 below, and 1 - p³ = 0.025 above.
    assert told['intervals'] == {'accuracy': pytest.approx([0.0943, 0.9916], abs=1e-4)}
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


def test_without_labels_there_are_no_signs():
    told = pairs_lib.summarize(pairs_lib.Pairs(np.eye(2), np.zeros((2, 2), int)))
    assert told['distributions'] == {'edges': [], 'classes': {}}
    assert 'accuracy_sign' not in told['values'] and 'sign' not in told['calibration']


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
        found = scorer.pairs(name, held_out.pairs(config)[name])
    values = dict(pairs_lib.values(found))
    keys = {key for key in measured if key.startswith('accuracy')}
    assert keys >= {'accuracy'} and (stage == 'reward' or 'accuracy_sign' in keys)
    for key in keys:
        assert values[key] == pytest.approx(measured[key], abs=1e-6)


def test_scores_that_are_none_are_left_out(config, monkeypatch):
    mesh = sharding.make_mesh(**config.mesh)
    ends = answers_lib.preference.pair_ends

    def some(params, batch, *, model):
        found = ends(params, batch, model=model)
        return found.at[0, 1].set(np.nan)  # of the first pair of each batch

    with jax.set_mesh(mesh):
        scorer = answers_lib.Scorer(config, mesh, '')
        comparisons = held_out.pairs(config)['reward'][:48]
        whole = scorer.pairs('reward', comparisons)
        monkeypatch.setattr(answers_lib.preference, 'pair_ends', some)
        found = scorer.pairs('reward', comparisons)
    lost = -(-len(whole.scores) // config.batch_size)
    assert len(found.scores) == len(whole.scores) - lost
    assert np.isfinite(found.scores).all()


def test_a_share_is_held_out_where_training_left_it_out(config, chain, tmp_path):
    file = str(tmp_path / 'pairs.jsonl')
    shutil.copy(config.data.reward_pairs_test, file)
    config.data.reward_pairs_test = config.data.cost_pairs_test = ''
    config.data.reward_pairs = config.data.cost_pairs = ''
    assert held_out.pairs(config) == {}
    config.data.reward_pairs = file
    # Which rows the model has seen is not known: it was trained on others.
    assert held_out.pairs(config) == {}
    trained = tmp_path / 'reward'
    shutil.copytree(chain / 'reward', trained)
    begun = json.loads((trained / 'config.json').read_text())
    begun |= {'data.reward_pairs': file, 'data.test_share': 0.2, 'seed': 3}
    (trained / 'config.json').write_text(json.dumps(begun))
    config.reward.init = str(trained)
    with config.unlocked():
        config.data.test_share, config.seed = 0.2, 3
    (found,) = held_out.pairs(config).values()
    read = functools.partial(sources.comparisons, need='better')
    expected = records.train_and_test(read, config, 'reward_pairs').test
    assert [*found] == [*expected] and len(found) > 0
    config.seed = 4
    assert held_out.pairs(config) == {}


def test_of_many_pairs_some_are_taken(config):
    whole = held_out.pairs(config)['reward']
    config.score_pairs = 10
    some = held_out.pairs(config)['reward']
    assert [*some] == [whole[i * len(whole) // 10] for i in range(10)]
    config.score_pairs = 0
    assert held_out.pairs(config) == {}
    config.score_pairs = -1
    with pytest.raises(inputs.InputError, match=r'config\.score_pairs=-1; must'):
        held_out.pairs(config)


def test_of_several_costs_none_is_measured(config):
    with config.unlocked():
        config.costs.privacy = config.costs.harm
    assert held_out.pairs(config).keys() == {'reward'}
