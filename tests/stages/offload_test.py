"""What waits in the host's memory, and that waiting there changes nothing."""

import dataclasses
import gc

import jax
import numpy as np
import pytest

from beaver_jax import checkpoint
from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax.stages import inputs
from beaver_jax.stages import offload
from beaver_jax.stages import ppo_lag
from tests import micro


@pytest.fixture
def build(chain, configs, few_rows, tmp_path):
    def build(**changes):
        overrides = {'run': tmp_path / 'run', **few_rows}
        overrides |= micro.models(chain, 'sft', 'reward', 'cost') | changes
        config = config_lib.from_argv(micro.arguments(configs, 'ppo_lag', overrides))
        return ppo_lag.build(config, sharding.make_mesh(data=8))

    return build


def kinds(tree):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


def on_devices():
    """Bytes of all arrays in the devices' memory; replicas count once."""
    return sum(
        array.nbytes
        for array in jax.live_arrays()
        if array.sharding.memory_kind == 'device'
    )


@pytest.mark.parametrize('lora', [0, 2])
def test_each_phase_has_what_it_needs_and_computes_the_same(build, lora):
    held, before = {}, 0

    def watched(phase, program):
        def call(*args):
            held.setdefault(phase, []).append(on_devices() - before)
            return program(*args)

        return call

    found = []
    for on in (False, True):
        gc.collect()
        before = on_devices()  # what other tests hold
        stage = build(offload=on, **{'actor.lora.rank': lora, 'critic.lora.rank': lora})
        size = on_devices() - before
        step = dataclasses.replace(
            stage.step,
            rollout=watched('rollout', stage.step.rollout),
            score=watched('scoring', stage.step.score),
            learn=watched('update', stage.step.learn),
        )
        state, metrics, _ = step(stage.state, next(stage.feed), jax.random.key(1))
        found.append((jax.device_get((state, metrics)), size))
        assert kinds(state.actor.params) == {'device'}
        others = (state.actor.opt_state, state.reward_critic, state.cost_critics)
        assert kinds(others) == {'pinned_host' if on else 'device'}
        del stage, step, state, metrics
    (expected, whole), (parked, small) = found
    jax.tree.map(np.testing.assert_array_equal, parked, expected)
    assert small < whole / 2
    for phase, (plain, offloaded) in held.items():
        assert offloaded < plain, phase


def test_a_parked_state_is_saved_and_restored(build, tmp_path):
    stage = build(offload=True)
    checkpoints = checkpoint.Checkpoints(tmp_path / 'checkpoints', keep=1)
    checkpoints.save(0, stage.state, {})
    checkpoints.wait()
    abstract = checkpoint.abstract(stage.state, stage.shardings())
    _, state, _ = checkpoints.restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, state, stage.state)
    assert kinds(state.reward_critic) == {'pinned_host'}
    assert kinds(state.actor.params) == {'device'}


def test_a_device_without_the_hosts_memory_is_refused(monkeypatch):
    monkeypatch.setattr(offload, 'HOST', 'host_of_another_kind')
    with pytest.raises(
        inputs.InputError, match=r'config\.offload=True: cpu has memory'
    ):
        offload.check()
