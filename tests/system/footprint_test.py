"""Plans against what the programs of a real stage need, compiled as users do."""

import dataclasses

import jax
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax.stages import footprint
from beaver_jax.stages import own_programs
from beaver_jax.stages import ppo_lag
from tests import compiling
from tests import micro

FEW = {
    'actor.lora.rank': 4,
    'critic.lora.rank': 4,
    'actor.quantize': 'int8',
    'reward.quantize': 'int4',
}


def measured(config, mesh, options):
    """A built stage's arrays on a device, and its programs' temporary bytes."""
    temporary = {}

    def watched(phase, program):
        def call(*args):
            compiled = program.lower(*args).compile(compiler_options=options)
            temporary[phase] = own_programs.temporary(compiled)
            return compiled(*args)

        return call

    with jax.set_mesh(mesh):
        stage = ppo_lag.build(config, mesh)
        step = stage.step
        held = jax.tree.leaves((stage.state, step.frozen, step.bases))
        size = footprint.size(list({id(x): x for x in held}.values()))
        step = dataclasses.replace(
            step,
            rollout=watched('rollout', step.rollout),
            score=watched('scoring', step.score),
            learn=watched('update', step.learn),
        )
        step(stage.state, next(stage.feed), jax.random.key(0))
    return size, temporary


# Once as users compile it: plans do without LLVM's optimizations.
@pytest.mark.parametrize(
    'changes, options',
    [({}, compiling.AS_USERS_DO), (FEW, {})],
    ids=['full', 'adapters over few bits'],
)
def test_a_plan_is_what_the_programs_need(
    changes, options, chain, configs, few_rows, tmp_path
):
    starts = micro.models(chain, 'sft', 'reward', 'cost')
    overrides = {'run': tmp_path / 'run', **few_rows, **starts, **changes}
    config = config_lib.from_argv(micro.arguments(configs, 'ppo_lag', overrides))
    sft = stages.sibling(config, str(configs), 'sft')
    mesh = sharding.make_mesh(**config.mesh)
    plan = footprint.plan(config, mesh, sft)
    held, temporary = measured(config, mesh, options)
    assert plan.held == pytest.approx(held, rel=0.15)
    assert plan.phases.keys() == temporary.keys()
    for phase, size in plan.phases.items():
        assert size == pytest.approx(held + temporary[phase], rel=0.15), phase
    assert plan.peak == pytest.approx(held + max(temporary.values()), rel=0.15)
