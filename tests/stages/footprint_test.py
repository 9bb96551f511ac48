"""Plans against what the programs of a real stage need."""

import dataclasses
import functools

import jax
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax.models import hf
from beaver_jax.stages import footprint
from beaver_jax.stages import own_programs
from beaver_jax.stages import ppo_lag
from beaver_jax.stages import roles
from tests import micro


@pytest.fixture
def load(chain, configs, few_rows, tmp_path):
    def load(**changes):
        more = {'run': tmp_path / 'run', **few_rows}
        more |= micro.models(chain, 'sft', 'reward', 'cost') | changes
        argv = micro.arguments(configs, 'ppo_lag', more)
        config = config_lib.from_argv(argv)
        return config, stages.sibling(config, str(configs), 'sft')

    return load


LORA = {'actor.lora.rank': 4, 'critic.lora.rank': 4}


def test_a_plan_without_programs_knows_what_learns(load):
    config, sft = load()
    mesh = sharding.make_mesh(**config.mesh)
    plan = footprint.plan(config, mesh, sft, compiles=False)
    stage = ppo_lag.build(config, mesh)
    learns = [role for role in plan.roles if role.optimizer]
    held = sum(role.parameters + role.optimizer for role in learns)
    assert held == pytest.approx(footprint.size(stage.state), rel=0.01)


def test_a_deeper_rollout_follows_from_shallow_ones(load):
    config, sft = load(**{'actor.remat': 'full'})
    mesh = sharding.make_mesh(**config.mesh)
    actor = roles.of(config, mesh, sft)[0]

    def rollout(layers, deepest):
        model = dataclasses.replace(actor.model.config, num_layers=layers)
        params = roles.placed(mesh, hf.abstract_params(type(actor.model)(model)))
        deep = dataclasses.replace(actor, model=type(actor.model)(model), params=params)
        with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
            patch.setattr(own_programs, 'DEEPER', deepest)
            work = own_programs.Work(config, mesh, {}, True)
            return own_programs.rollout(work, deep)[0]

    assert rollout(8, 4) == pytest.approx(rollout(8, 8), rel=0.15)


def test_what_waits_is_on_no_device(load):
    config, sft = load(offload=True)
    mesh = sharding.make_mesh(**config.mesh)
    plan = footprint.plan(config, mesh, sft, compiles=False)
    stage = ppo_lag.build(config, mesh)
    actor = footprint.size(stage.state.actor.params)
    moments = sum(role.optimizer for role in plan.roles)
    learnt = footprint.size(stage.state)
    close = functools.partial(pytest.approx, rel=0.01)
    assert plan.held - plan.waiting['rollout'] == actor
    assert plan.waiting['scoring'] == moments
    assert plan.held - plan.waiting['update'] == close(learnt)


def test_slots_hold_the_cache_of_their_rows(load):
    config, sft = load(**{'rollout.slots': 8, 'rollout.prompts': 16})
    mesh = sharding.make_mesh(**config.mesh)
    actor = roles.of(config, mesh, sft)[0]
    work = own_programs.Work(config, mesh, {}, True)
    with jax.set_mesh(mesh):
        slots, cache = own_programs.rollout(work, actor)
        config.rollout.slots = 0
        whole, all_rows = own_programs.rollout(work, actor)
    assert cache == all_rows / 2
    assert cache < slots < whole


def test_one_base_is_counted_once(load):
    shared = LORA | {'share_base': True}
    config, sft = load(**shared)
    mesh = sharding.make_mesh(**config.mesh)
    found = {role.name: role for role in roles.of(config, mesh, sft)}
    actor = found['actor']
    assert list(found) == [
        'actor',
        'reference',
        'reward model',
        'cost model harm',
        'reward critic',
        'cost critic harm',
    ]
    assert footprint.size(found['reference'].held()) == 0
    decoder = {k: v for k, v in actor.base.items() if k != 'lm_head'}
    for name in ('reward model', 'cost model harm', 'reward critic'):
        role = found[name]
        assert jax.tree.leaves(role.base) == jax.tree.leaves(decoder)
        assert footprint.size(role.held()) == footprint.size(role.params)
    # Without it each score model has a base, which its critic shares.
    config, sft = load(**LORA)
    found = {role.name: role for role in roles.of(config, mesh, sft)}
    assert found['reward critic'].stands_on == 'reward model'
    whole = footprint.size(decoder)
    assert footprint.size(found['reward model'].held()) > whole
    assert footprint.size(found['reward critic'].held()) < whole / 2
