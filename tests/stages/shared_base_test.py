"""Six models over one base in memory."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import metrics
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import train
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.stages import inputs
from beaver_jax.stages import ppo_lag
from beaver_jax.stages import ppo_models
from tests import micro

LORA = {'rank': 4, 'alpha': 8}


def ranks(*sections):
    return {f'{s}.lora.{name}': value for s in sections for name, value in LORA.items()}


@pytest.fixture(scope='module')
def scored(chain, configs, few_rows, tmp_path_factory):
    """A run whose reward and cost models are adapters over the chain's SFT model."""
    run = tmp_path_factory.mktemp('scored')
    more = {'run': run, **few_rows, 'model.init': chain / 'sft', **ranks('model')}
    for kind in ('reward', 'cost'):
        # Many steps of a high rate: the adapters are to matter.
        more['optimizer.learning_rate'] = 0.02
        train.main(micro.arguments(configs, kind, more))
    return run


@pytest.fixture
def argv(chain, scored, configs, few_rows, tmp_path):
    def argv(**changes):
        starts = micro.models(chain, 'sft') | micro.models(scored, 'reward', 'cost')
        more = {'run': tmp_path / 'run', **few_rows, **starts}
        more |= ranks('actor', 'critic') | {'share_base': True}
        return micro.arguments(configs, 'ppo_lag', more | changes)

    return argv


def load(argv):
    config = config_lib.from_argv(argv)
    mesh = sharding.make_mesh(**config.mesh)
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    return ppo_models.load(config, mesh, tokenizer, ('harm',))


def test_scores_are_those_of_the_merged_models(argv, scored):
    loaded = load(argv())
    tokens, mask = jnp.arange(24).reshape(2, 12), jnp.ones((2, 12), bool)
    for kind, scorer, frozen, critic, learning in (
        (
            'reward',
            loaded.scorers.reward,
            loaded.frozen['reward'],
            loaded.networks.reward_critic,
            loaded.reward_critic,
        ),
        (
            'cost',
            loaded.scorers.costs['harm'],
            loaded.frozen['costs']['harm'],
            loaded.networks.cost_critics['harm'],
            loaded.cost_critics['harm'],
        ),
    ):
        model, params, _ = hf.load_score_model(scored / kind / 'model')
        scores = jax.jit(model.apply)({'params': params}, tokens, mask)
        bare = jax.tree.map(jnp.zeros_like, frozen['model']['backbone'])
        found = jax.jit(scorer)(frozen, tokens, mask)
        np.testing.assert_allclose(found, score.end_scores(scores, mask), atol=2e-5)
        # The critic begins with exactly the score model's scores.
        whole = learning.overlay(learning.base, learning.params)
        values = jax.jit(critic.apply)({'params': whole}, tokens, mask)
        np.testing.assert_allclose(values, scores, atol=2e-5)
        without = frozen | {'model': frozen['model'] | {'backbone': bare}}
        assert np.max(np.abs(jax.jit(scorer)(without, tokens, mask) - found)) > 1e-2


def test_an_iteration_over_one_base(argv, chain, tmp_path):
    config = config_lib.from_argv(argv())
    mesh = sharding.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        stage = ppo_lag.build(config, mesh)
        frozen, bases = stage.step.frozen, stage.step.bases
        before = jax.tree.map(np.asarray, bases['actor'])
        # Everything frozen that compiled functions get, by identity.
        arrays = {id(x): x for x in jax.tree.leaves((frozen, bases))}
        base = {id(x) for x in jax.tree.leaves(bases['actor'])}
        rest = {
            id(x)
            for one in (frozen['reward'], frozen['costs']['harm'])
            for x in jax.tree.leaves((one['model'], one['normalizer']))
        }
        assert arrays.keys() == base | rest
        assert not base & rest
        held = sum(x.nbytes for x in arrays.values())
        planned = _bytes(chain / 'sft') + 2 * _adapter_bytes(bases['actor'])
        assert held == planned
        _, found, _ = stage.step(stage.state, next(stage.feed), jax.random.key(0))
        assert float(found['train/bad_steps']) == 0
        jax.tree.map(np.testing.assert_array_equal, bases['actor'], before)

    micro.train_alone(argv(iterations=2))
    rows = metrics.read(tmp_path / 'run' / 'ppo_lag' / 'metrics.jsonl')
    assert rows[0]['train/kl_divergence'] == pytest.approx(0, abs=1e-4)
    assert all(row['train/bad_steps'] == 0 for row in rows)


def _bytes(stage):
    _, params = hf.load_causal_lm(stage / 'model')
    return sum(x.nbytes for x in jax.tree.leaves(params))


def _adapter_bytes(base):
    """Rank 4 on either side of seven maps, a head of 16 + 1, three statistics."""
    maps = [
        x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(base['layers'])
        if path[-1].key == 'kernel'
    ]
    assert len(maps) == 7
    adapters = sum(layers * 4 * (inner + outer) for layers, inner, outer in maps)
    return 4 * (adapters + 17 + 3)


def test_what_a_chain_trains_first_is_adapters_too(argv, configs, tmp_path):
    run = tmp_path / 'new'
    inits = {'actor.init': run / 'sft', 'reward.init': run / 'reward'}
    line = argv(run=run, **inits, **{'costs.harm.init': run / 'cost'})
    config = config_lib.from_argv(line)
    wanted = {one.stage: one for one in stages.chain(config, str(configs))}
    assert wanted.keys() == {'sft', 'reward', 'cost', 'ppo_lag'}
    assert wanted['sft'].model.lora.rank == 0
    for name in ('reward', 'cost'):
        assert wanted[name].model.lora == config.critic.lora
    stages.check(list(wanted.values()), sharding.make_mesh(**config.mesh))


def test_what_a_chain_trains_stands_on_the_actor(argv, chain, configs, tmp_path):
    run = tmp_path / 'new'
    line = argv(**{'run': run, 'reward.init': run / 'reward'})
    first, _ = stages.chain(config_lib.from_argv(line), str(configs))
    assert (first.stage, first.model.init) == ('reward', str(chain / 'sft'))


def test_what_cannot_share_is_refused(argv, chain, scored, tmp_path):
    def line(**changes):
        return micro.error(train.main, argv(**changes))

    assert line(**{'critic.lora.rank': 0}) == (
        'Error: config.share_base=True and config.critic.lora.rank=0: what learns in '
        'full cannot share its base; set --config.lora.rank=16.'
    )
    for name in ('reference', 'reward', 'costs.harm', 'critic'):
        assert line(**{f'{name}.quantize': 'int8'}) == (
            f"Error: config.{name}.quantize='int8', but its model is the one that "
            'config.actor stands on; set --config.actor.quantize instead.'
        )
    assert line(**{'critic.lora.alpha': 4}).endswith(
        'needs the same settings; set --config.critic.lora.alpha=8.0.'
    )
    assert line(**{'critic.init': chain / 'sft'}).startswith(
        'Error: config.share_base=True and config.critic.init='
    )
    found = line(**{'reward.init': chain / 'reward'})
    assert found.startswith(
        f"Error: config.share_base=True, but config.reward.init='{chain / 'reward'}' "
        'holds no adapter'
    )
    assert '--config=configs/reward.py --config.model.init=' in found

    # Another base, and the same one after it was changed.
    sft = tmp_path / 'sft'
    shutil.copytree(chain / 'sft' / 'model', sft / 'model')
    changed = {'actor.init': sft, 'reference.init': sft}
    model, params = hf.load_causal_lm(sft / 'model')
    kernel = params['layers']['mlp']['up']['kernel']
    params['layers']['mlp']['up']['kernel'] = kernel + 1e-3
    hf.save_causal_lm(sft / 'model', model.config, params)
    assert line(**changed) == (
        f'Error: config.reward.init: {scored / "reward" / "adapter"} stands on '
        f'{(chain / "sft" / "model").resolve()}, not on {(sft / "model").resolve()}, '
        'the base of config.actor.init; name models of one base, or set '
        '--config.share_base=False.'
    )


def test_a_base_that_changed_is_noticed(chain, scored, argv, tmp_path):
    reward = tmp_path / 'reward'
    shutil.copytree(scored / 'reward', reward)
    file = reward / 'adapter' / 'score_config.json'
    text = file.read_text()
    digest = text.partition('"fingerprint": "')[2][:64]
    file.write_text(text.replace(digest, '0' * 64))
    assert micro.error(train.main, argv(**{'reward.init': reward})) == (
        f'Error: config.reward.init: {reward / "adapter"} stands on '
        f'{(chain / "sft" / "model").resolve()}, which has changed since; train it '
        'anew, or restore the base.'
    )
