"""Nothing is compiled after the first step of a stage."""

import math
import re
import threading

import jax
import jax.numpy as jnp
import pytest

from beaver_jax import compilation
from beaver_jax import config as config_lib
from beaver_jax import metrics
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import terminal
from beaver_jax import train
from tests import micro


def test_it_counts_programs_and_not_calls():
    with compilation.Counter() as compiled:
        double = jax.jit(lambda x: 2 * x)
        x = jnp.ones(3)
        compiled.reset()
        double(x)
        assert compiled.programs == 1
        assert compiled.seconds > 0
        double(x)
        assert compiled.programs == 1
        double(x[:2])  # a slice and another shape
        assert compiled.programs > 1
        compiled.reset()
        assert (compiled.programs, compiled.names, compiled.seconds) == (0, [], 0.0)


def test_it_stops_counting_and_is_deaf_to_other_threads():
    with compilation.Counter() as compiled:
        compiled.reset()
        other = threading.Thread(target=lambda: jax.jit(lambda x: 3 * x)(1.0))
        other.start()
        other.join()
        assert compiled.programs == 0
    jax.jit(lambda x: 4 * x)(1.0)
    assert compiled.programs == 0


def test_programs_are_kept_where_jax_was_told_or_in_the_users_cache(
    monkeypatch, tmp_path
):
    name = 'jax_compilation_cache_dir'
    given = getattr(jax.config, name)
    compilation.keep()
    assert given and getattr(jax.config, name) == given
    try:
        jax.config.update(name, None)
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
        compilation.keep()
        found = getattr(jax.config, name)
    finally:
        jax.config.update(name, given)
    assert found == str(tmp_path / 'beaver_jax' / 'compiled')


@pytest.fixture
def load(chain, configs, few_rows, tmp_path):
    """Loads the config of a stage that starts from the chain."""

    def load(stage, **changes):
        starts = {
            'sft': {'model.tokenizer': chain / 'world' / 'tokenizer'},
            'reward': {'model.init': chain / 'sft'},
            'ppo_lag': micro.models(chain, 'sft', 'reward', 'cost'),
        }
        argv = micro.arguments(
            configs, stage, {'run': tmp_path, **few_rows, **starts[stage], **changes}
        )
        return config_lib.from_argv(argv)

    return load


def programs_of_steps(config, count):
    """How many programs each of the first steps compiles, and the batches' lengths."""
    mesh = sharding.make_mesh(**config.mesh)
    with jax.set_mesh(mesh), compilation.Counter() as compiled:
        built = stages.build(config, mesh)
        state, programs, lengths = built.state, [], []
        # What any code compiles that splits a key, once in a process.
        rollout_key, update_key = jax.random.split(jax.random.key(0))
        del rollout_key, update_key
        for step in range(count):
            key = jax.random.fold_in(jax.random.key(0), step)
            batch = next(built.feed)
            compiled.reset()
            state, found, _ = built.step(state, batch, key)
            programs.append(compiled.programs)
            lengths.append({leaf.shape[-1] for leaf in jax.tree.leaves(batch)})
            assert all(math.isfinite(value) for value in found.values())
    return programs, set.union(*lengths)


@pytest.mark.parametrize('stage', ['reward', 'ppo_lag'])
def test_the_steps_of_a_stage_compile_once(stage, load):
    programs, _ = programs_of_steps(load(stage), 3)
    # A rollout, its scoring and an update; or an update.
    assert programs == [3 if stage == 'ppo_lag' else 1, 0, 0]


def test_the_first_step_compiles_for_every_length_of_batches(load):
    # 96 pairs, 16 to a batch: six batches, in all lengths that there are.
    programs, lengths = programs_of_steps(load('reward', buckets=3), 6)
    assert programs == [3, 0, 0, 0, 0, 0]
    # And one sign of a sequence, and the rows of a batch.
    assert len(lengths - {1, 16}) == 3


@pytest.fixture
def restless(monkeypatch):
    """Stages whose steps compile a new program every time."""
    build = stages.build

    def build_restless(config, mesh):
        built = build(config, mesh)
        step = built.step

        def draws(key):
            return jax.random.bits(key)

        def compiles(state, batch, key):
            jax.jit(lambda key: draws(key))(key)
            return step(state, batch, key)

        built.step = compiles
        return built

    monkeypatch.setattr(stages, 'build', build_restless)


@pytest.fixture
def train_it(capsys):
    """Trains a stage and returns its log."""

    def train_it(config):
        terminal.show_log()
        mesh = sharding.make_mesh(**config.mesh)
        with jax.set_mesh(mesh):
            train.train(config, mesh)
        return capsys.readouterr().err

    return train_it


def test_a_run_says_what_was_compiled_and_what_it_took(load, train_it):
    log = train_it(load('sft', steps=2, late_compilation='error'))  # nothing is late
    assert re.search(r'sft: compiled: step \d+\.\d s\n', log)
    assert re.search(r'sft: peak memory \d+\.\d\d GB \(process\), step needs \d', log)


def test_what_is_compiled_late_ends_a_run_or_is_told_of(
    load, train_it, restless, tmp_path
):
    changes = {'steps': 4, 'checkpoint.every': 2}
    with pytest.raises(train.RunError, match=r'step 2 compiled .*=warn\.$'):
        train_it(load('sft', late_compilation='error', **changes))
    # The step was written and saved before.
    rows = metrics.read(tmp_path / 'sft' / metrics.METRICS)
    assert [row['step'] for row in rows] == [1, 2]
    log = train_it(load('sft', **changes))
    assert 'sft: resumed after step 2 of 4' in log
    # Step 3 is the first that the second process takes.
    assert 'sft: step 4 compiled jit(<lambda>) again' in log
    assert 'step 3 compiled' not in log


def test_a_program_compiled_ahead_is_what_is_called():
    called = []

    def double(x):
        called.append(x.shape)
        return {'twice': 2 * x}

    program = compilation.Program(jax.jit(double))
    ahead, results = program.ahead(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert ahead.seconds > 0
    assert ahead.bytes >= 2 * 3 * 4  # an argument and a result of three floats
    assert (results['twice'].shape, results['twice'].dtype) == ((3,), jnp.float32)
    with compilation.Counter() as compiled:
        x = jnp.arange(3.0)
        compiled.reset()
        assert program(x)['twice'].tolist() == [0, 2, 4]
        assert compiled.programs == 0
    assert called == [(3,)]
