"""The stages of reinforcement learning: what starts from what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.stages import critics
from beaver_jax.stages import ppo_lag
from beaver_jax.stages import ppo_models
from beaver_jax.stages import rollouts
from beaver_jax.stages import scorers
from tests import micro


@pytest.fixture
def load(chain, configs, few_rows, tmp_path):
    def load(stage='ppo_lag', **changes):
        starts = micro.models(chain, 'sft', 'reward', 'cost')
        dotted = {name.replace('__', '.'): value for name, value in changes.items()}
        overrides = {'run': tmp_path / 'run', **few_rows, **starts, **dotted}
        return config_lib.from_argv(micro.arguments(configs, stage, overrides))

    return load


@pytest.fixture
def mesh():
    return sharding.make_mesh(data=2, fsdp=2, tensor=2)


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_networks_start_from_the_models_that_the_config_names(load, mesh, chain):
    config = load()
    stage = ppo_lag.build(config, mesh)
    _, actor = hf.load_causal_lm(chain / 'sft' / 'model')
    _, reward, _ = hf.load_score_model(chain / 'reward' / 'model')
    _, cost, _ = hf.load_score_model(chain / 'cost' / 'model')
    equal(stage.state.actor.params, actor)
    equal(stage.state.reward_critic.params, reward)
    equal(stage.state.cost_critics['harm'].params, cost)
    assert stage.state.multiplier.params == {'harm': 1.0}
    assert stage.state.cost_windows['harm'].costs.shape == (16,)
    assert stage.steps == 5


def test_frozen_models_have_the_type_they_compute_in(load, mesh, chain):
    config = load(reference__dtype='bfloat16', actor__dtype='bfloat16')
    tokenizer = ppo_lag.inputs.load_tokenizer('actor.init', config.actor.init)
    loaded = ppo_models.load(config, mesh, tokenizer, ('harm',))
    assert {x.dtype for x in jax.tree.leaves(loaded.frozen['reference'])} == {
        jnp.dtype('bfloat16')
    }
    # What learns is kept in float32, whatever it computes in.
    assert {x.dtype for x in jax.tree.leaves(loaded.actor.params)} == {
        jnp.dtype('float32')
    }
    assert loaded.networks.actor.config.dtype == 'bfloat16'


def test_ppo_has_neither_costs_nor_multipliers(load, mesh):
    config = load()
    with config.unlocked():
        del config.costs.harm
    stage = ppo_lag.build(config, mesh)
    assert stage.state.multiplier.params == {}
    assert stage.state.cost_critics == {}
    assert stage.state.cost_windows == {}
    assert set(stage.rates) == {'train/actor_lr', 'train/reward_critic_lr'}
    assert stage.summarize([]) == {}


def test_a_measured_cost_constrains_nothing(load, mesh):
    config = load('ppo_reward_shaping')
    with config.unlocked():
        config.costs.harm.shaping = None
    stage = ppo_lag.build(config, mesh)
    assert stage.state.multiplier.params == {}
    assert list(stage.state.cost_windows) == ['harm']


def test_a_critic_takes_the_output_that_the_constraint_measures(load, mesh, chain):
    config = load()
    model, params, normalizer = hf.load_score_model(chain / 'cost' / 'model')
    rng = np.random.default_rng(0)
    two = params | {
        'score_head': {
            'kernel': rng.normal(size=(16, 2)).astype(np.float32),
            'bias': np.array([1, 2], np.float32),
        }
    }
    wide = dataclasses.replace(model.config, score_dim=2, normalize=True)
    directory = chain.parent / 'two_outputs'
    hf.save_score_model(
        directory,
        wide,
        two,
        normalizer.replace(mean=jnp.zeros(2), var=jnp.ones(2)),
    )
    with config.unlocked():
        config.costs.harm.init = str(directory)
        config.costs.harm.output = 1
    tokenizer = ppo_lag.inputs.load_tokenizer('actor.init', config.actor.init)
    tokenizer_lib.save(tokenizer, directory)
    scorer = scorers.scorer(config.costs.harm, mesh, 'costs.harm')
    critic, learning = critics.critic(config, mesh, tokenizer, 'costs.harm', scorer)
    found = learning.params
    np.testing.assert_array_equal(found['score_head']['kernel'], two_kernel(two)[:, 1:])
    np.testing.assert_array_equal(found['score_head']['bias'], [2])
    assert (critic.config.score_dim, critic.config.score_type) == (1, 'critic')
    # A critic learns returns, which are in the units of rewards: no normalization.
    assert not critic.config.normalize


def test_the_config_decides_whether_scores_are_normalized(load, mesh, chain):
    model, params, normalizer = hf.load_score_model(chain / 'cost' / 'model')
    directory = chain.parent / 'variance_4'
    hf.save_score_model(
        directory,
        dataclasses.replace(model.config, normalize=True),  # do_normalize
        params,
        normalizer.replace(var=jnp.full(1, 4.0)),
    )
    section = load().costs.harm
    tokens, mask = jnp.arange(12).reshape(2, 6), jnp.ones((2, 6), bool)

    def scores(normalize):
        with section.unlocked():
            section.update(init=str(directory), normalize=normalize)
        scorer = scorers.scorer(section, mesh, 'costs.harm')
        return jax.jit(scorer.function)(scorer.params(), tokens, mask)

    # A cost is divided by its standard deviation, √4.
    np.testing.assert_allclose(scores(False), 2 * scores(True), rtol=1e-6)


def two_kernel(params):
    return params['score_head']['kernel']


def test_the_summary_of_a_multiplier(load):
    config = load()
    rows = [{'train/lambda/harm': value} for value in (0.5, 2.0, 1.5)]
    assert ppo_lag.summarize(config, {'harm': -3.0}, rows) == {
        # It starts at 1.
        'multiplier': {'harm': {'init': 1.0, 'max': 2.0, 'final': 1.5}},
        'thresholds': {'harm': -3.0},
    }


def test_sampling_does_not_know_the_rows_of_the_data_set(load, mesh):
    # One row may stand twice in a batch that spans two epochs.
    config = load()
    batch = next(ppo_lag.build(config, mesh).feed)['prompts']
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), batch)
    samples = sampled(config, mesh, same)
    texts = {tuple(row) for row in np.asarray(samples.tokens).tolist()}
    assert len(texts) > 8  # of 16


def sampled(config, mesh, prompts):
    tokenizer = ppo_lag.inputs.load_tokenizer('actor.init', config.actor.init)
    loaded = ppo_models.load(config, mesh, tokenizer, ('harm',))
    actor, model = loaded.actor, loaded.networks.actor
    rollout = rollouts.make(config, mesh, actor, model, tokenizer)
    return rollout(actor.params, {}, prompts, jax.random.key(0))


def test_slots_change_no_sample(load, mesh):
    config = load(rollout__samples_per_prompt=2)
    batch = next(ppo_lag.build(config, mesh).feed)['prompts']
    expected = sampled(config, mesh, batch)
    config.rollout.update({'slots': 16, 'prompt_buckets': 2})
    found = sampled(config, mesh, batch)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.response_mask, expected.response_mask)
    np.testing.assert_array_equal(found.truncated, expected.truncated)
    np.testing.assert_allclose(found.logps, expected.logps, atol=2e-5)
    assert found.tokens.sharding == expected.tokens.sharding


def test_a_number_of_pack_sizes_is_not_negative(load, mesh):
    with pytest.raises(rollouts.inputs.InputError, match='pack_sizes=-1; use 0'):
        ppo_lag.build(load(rollout__pack_sizes=-1), mesh)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'slots': 10}, r'rollout.slots=10; use 0 .* multiple of 4 .* the 16 rows'),
        ({'slots': 20}, r'rollout.slots=20; use 0'),
        ({'slots': -4}, r'rollout.slots=-4; use 0'),
        ({'slots': 4, 'samples_per_prompt': 2}, r'multiple of 8'),
        ({'prompt_buckets': 2}, 'needs slots'),
        ({'prompt_buckets': 0, 'slots': 8}, r'rollout.prompt_buckets=0'),
        ({'prompt_buckets': 99, 'slots': 8}, 'more than config.max_prompt_length='),
    ],
    ids=str,
)
def test_slots_must_fit(load, mesh, settings, message):
    config = load()
    config.rollout.update(settings)
    with pytest.raises(rollouts.inputs.InputError, match=message):
        rollouts.check(config, mesh)


def test_ptx_brings_as_many_rows_as_there_are_samples(load, mesh):
    config = load(ppo__ptx_coeff=1.0, rollout__samples_per_prompt=2)
    batch = next(ppo_lag.build(config, mesh).feed)
    assert batch['prompts'].tokens.shape == (16, config.max_prompt_length)
    length = config.max_prompt_length + config.max_response_length
    assert batch['ptx'].tokens.shape == (32, length)


# ---- Chains -------------------------------------------------------------------------


def names(configs):
    return [config.stage for config in configs]


def test_a_chain_has_the_missing_inputs_first(configs, tmp_path):
    folder = str(configs)

    def chain(stage, **changes):
        dotted = {name.replace('__', '.'): value for name, value in changes.items()}
        overrides = {'run': tmp_path / 'run', **dotted}
        config = config_lib.from_argv(micro.arguments(configs, stage, overrides))
        return stages.chain(config, folder)

    assert names(chain('sft')) == ['sft']
    assert names(chain('reward')) == ['sft', 'reward']
    assert names(chain('ppo')) == ['sft', 'reward', 'ppo']
    assert sorted(names(chain('ppo_lag'))[1:-1]) == ['cost', 'reward']
    # What another run made is not made here.
    assert names(chain('reward', model__init='elsewhere/sft')) == ['reward']
    done = tmp_path / 'run' / 'sft'
    done.mkdir(parents=True)
    (done / 'summary.json').write_text('{}')
    assert names(chain('ppo')) == ['reward', 'ppo']
    # The wanted stage is there even if it is done: it says so.
    assert names(chain('sft')) == ['sft']


def test_an_input_inherits_what_a_run_has_in_common(configs, tmp_path):
    overrides = {
        'run': tmp_path / 'run',
        'seed': 7,
        'mesh.data': -1,
        'data.test_share': 0.2,
        'log.every': 3,
        'dtype': 'bfloat16',
        'reward.dtype': 'float32',
        'ppo.kl_coeff': 0.5,
    }
    config = config_lib.from_argv(micro.arguments(configs, 'ppo_lag', overrides))
    sft = stages.sibling(config, str(configs), 'sft')
    assert (sft.run, sft.seed, sft.mesh.data) == (str(tmp_path / 'run'), 7, -1)
    assert (sft.data.test_share, sft.log.every) == (0.2, 3)
    assert sft.model.dtype == config.costs.harm.dtype == 'bfloat16'
    assert config.reward.dtype == 'float32'
    assert sft.model.tokenizer == f'{tmp_path}/run/world/tokenizer'
    assert sft.data.sft == f'{tmp_path}/run/world/sft.jsonl'
    assert sft.is_locked
    with config.unlocked():
        config.run = 'elsewhere'
    assert sft.run == str(tmp_path / 'run')


def test_a_chain_shares_its_adapters(configs, tmp_path):
    def config(**changes):
        dotted = {name.replace('__', '.'): value for name, value in changes.items()}
        overrides = {'run': tmp_path / 'run', **dotted}
        return config_lib.from_argv(micro.arguments(configs, 'ppo_lag', overrides))

    def ranks(found):
        inputs = [stages.sibling(found, str(configs), s) for s in ('sft', 'cost')]
        sections = [found.actor, found.critic, *(one.model for one in inputs)]
        return [section.lora.rank for section in sections]

    assert ranks(config()) == [0, 0, 0, 0]
    assert ranks(config(lora__rank=4, base='model')) == [4, 4, 4, 4]
    # A role's own flag counts over it, and stays that role's.
    assert ranks(config(lora__rank=4, critic__lora__rank=2, base='m')) == [4, 2, 4, 4]
    assert ranks(config(actor__lora__rank=2, base='model')) == [2, 0, 0, 0]
    # Without a base there is nothing that SFT could adapt.
    assert ranks(config(lora__rank=4)) == [4, 4, 0, 4]
    other = stages.sibling(config(lora__targets='x'), str(configs), 'reward')
    assert (other.lora.targets, other.model.lora.targets) == ('x', 'x')
