"""Nothing is compiled after the first step of a stage."""

import math
import re
import threading

import jax
import jax.numpy as jnp
import pytest

from beaver_jax import compilation
from beaver_jax import config as config_lib
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
        assert (compiled.programs, compiled.seconds) == (0, 0.0)


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
            state, metrics, _ = built.step(state, batch, key)
            programs.append(compiled.programs)
            lengths.append({leaf.shape[-1] for leaf in jax.tree.leaves(batch)})
            assert all(math.isfinite(value) for value in metrics.values())
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


def test_a_run_says_what_was_compiled_and_warns_of_more(load, capsys, monkeypatch):
    build = stages.build

    def build_restless(config, mesh):
        built = build(config, mesh)
        step = built.step

        def compiles(state, batch, key):
            jax.jit(lambda key: jax.random.bits(key))(key)  # a new program every time
            return step(state, batch, key)

        built.step = compiles
        return built

    def log_of(config):
        terminal.show_log()
        mesh = sharding.make_mesh(**config.mesh)
        with jax.set_mesh(mesh):
            train.train(config, mesh)
        return capsys.readouterr().err

    log = log_of(load('sft', steps=2))
    assert re.search(r'sft: compiled [1-9]\d* programs? in \d', log)
    assert 'again' not in log
    monkeypatch.setattr(stages, 'build', build_restless)
    log = log_of(load('sft', steps=2, if_exists='overwrite'))
    assert 'sft: compiled 1 program again' in log
