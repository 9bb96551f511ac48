"""Every shipped config in every preset."""

import dataclasses
import importlib.util
import pathlib
import re

import jax
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
import numpy as np
import optax
import pytest

from beaver_jax import config as config_lib
from beaver_jax import evaluate
from beaver_jax import meanings
from beaver_jax import optim
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax.models import config as model_config
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.stages import ppo_settings
from beaver_jax.steps import ppo_lag
from tests.models import decoders

FILES = sorted((pathlib.Path(__file__).parents[1] / 'configs').glob('*.py'))
PRESETS = ('tiny', 'local', 'llama-7b')
EVERY = [(file.stem, preset) for file in FILES for preset in PRESETS]


def path(name):
    (found,) = (file for file in FILES if file.stem == name)
    return str(found)


def load(name, preset, **overrides):
    return config_lib.load(f'{path(name)}:{preset}', overrides)


def docstring(name):
    spec = importlib.util.spec_from_file_location(name, path(name))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.__doc__ or ''


def test_there_is_a_config_for_every_stage():
    assert {file.stem for file in FILES} == {*stages.BUILDERS, 'evaluate'}


@pytest.mark.parametrize('name, preset', EVERY)
def test_it_loads_locked_and_names_its_stage_and_run(name, preset):
    config = load(name, preset)
    assert config.is_locked
    assert (config.stage, config.preset, config.run) == (name, preset, f'runs/{preset}')
    moved = load(name, preset, run='elsewhere')
    inside = [v for v in config_lib.flatten(config).values() if 'runs/' in str(v)]
    assert not [v for v in config_lib.flatten(moved).values() if 'runs/' in str(v)]
    assert preset != 'tiny' or len(inside) > 5


@pytest.mark.parametrize('name', [file.stem for file in FILES])
def test_the_default_is_tiny_and_a_wrong_preset_is_named(name):
    assert config_lib.load(path(name)) == load(name, 'tiny')
    with pytest.raises(config_lib.ConfigError, match='did you mean llama-7b'):
        load(name, 'llama7b')


@pytest.mark.parametrize('name', [file.stem for file in FILES])
def test_every_key_has_a_meaning(name):
    keys = config_lib.flatten(load(name, 'tiny'))
    assert [key for key in keys if not meanings.of(key)] == []


@pytest.mark.parametrize('name', [file.stem for file in FILES])
def test_the_docstring_is_a_command_that_parses(name):
    text = docstring(name)
    command = 'evaluate' if name == 'evaluate' else 'train'
    assert f'python -m beaver_jax.{command} --config=configs/{name}.py\n' in text
    # Commands go on after a backslash; words in capitals stand for a user's own.
    joined = text.replace('\\\n', ' ')
    for line in re.findall(r'--config=configs/\w+\.py:local.*', joined):
        (config,) = re.findall(r'--config=configs/(\w+)\.py', line)
        assert config == name
        keys = dict(re.findall(r'--config\.([\w.]+)=(\S+)', line))
        assert keys
        found = config_lib.flatten(load(name, 'local', **keys))
        assert {key: found[key] for key in keys} == keys


# ---- The settings construct ---------------------------------------------------------


@pytest.mark.parametrize('name, preset', EVERY)
def test_settings_pass_every_check(name, preset):
    config = load(name, preset, base='somewhere')
    mesh = sharding.make_mesh(**config.mesh)
    check = evaluate.check if name == 'evaluate' else stages.CHECKS[name]
    check(config, mesh)


@pytest.mark.parametrize('preset', PRESETS)
def test_what_ppo_and_its_kin_differ_in(preset):
    mesh = sharding.make_mesh()
    plain, thresholds = ppo_settings.check(load('ppo', preset), mesh)
    assert (thresholds, plain.shaping) == ({}, {})
    constrained, thresholds = ppo_settings.check(load('ppo_lag', preset), mesh)
    assert list(thresholds) == ['harm']
    kl_coeff = plain.kl_coeff  # the original's scripts differ in it
    assert dataclasses.replace(constrained, kl_coeff=kl_coeff) == plain
    shaped, thresholds = ppo_settings.check(load('ppo_reward_shaping', preset), mesh)
    assert thresholds == {}
    assert shaped.shaping['harm'] > 0


def test_the_hyper_parameters_of_the_original():
    # safe-rlhf's scripts/ppo-lag.sh and scripts/sft.sh.
    config = load('ppo_lag', 'llama-7b')
    assert config.ppo.kl_coeff == 0.01
    assert config.ppo.ptx_coeff == 16
    assert config.ppo.clip_ratio == 0.2
    assert config.ppo.clip_score == 50
    assert config.ppo.clip_value == 5
    assert config.ppo.gae_lambda == 0.95
    assert (config.actor_optimizer.b1, config.actor_optimizer.b2) == (0.9, 0.95)
    assert load('sft', 'llama-7b').optimizer.learning_rate == 2e-5


# ---- LLaMA-7B -----------------------------------------------------------------------

LLAMA_7B = dataclasses.replace(decoders.LLAMA_7B, dtype='bfloat16')
# Embedding and projection, and a layer: four of attention, three of the feed-forward
# network and two norms; and the last norm.
PARAMETERS = 2 * 32_000 * 4096 + 4096
PARAMETERS += 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096)


def test_the_state_of_llama_7b_is_spread_over_eight_devices():
    assert PARAMETERS == 6_738_415_616
    config = load('ppo_lag', 'llama-7b')
    sizes = {'data': 1, 'fsdp': 8, 'tensor': 1}
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (1, -1, 1)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * 3)
    actor = transformer.CausalLM(LLAMA_7B)
    critic = score.ScoreModel(model_config.ScoreConfig(backbone=LLAMA_7B))

    def optimizer(name):
        settings = optim.OptimizerConfig(**config[name].to_dict())
        return optim.make_optimizer(settings, config.iterations)

    optimizers = ppo_lag.Optimizers(
        optimizer('actor_optimizer'),
        optimizer('critic_optimizer'),
        ppo_settings.multiplier_optimizer(config.multiplier),
    )

    def init(params):
        return ppo_lag.init(
            params,
            optimizers,
            multipliers={'harm': 1.0},
            costs=('harm',),
            window=config.multiplier.window,
        )

    values = hf.abstract_params(critic)
    params = {
        'actor': hf.abstract_params(actor),
        'reward_critic': values,
        'cost_critics': {'harm': values},
    }
    state = jax.eval_shape(init, params)
    shardings = sharding.state_shardings(mesh, state, transformer.RULES)
    held = jax.tree.map(
        lambda x, s: np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
        state,
        shardings,
    )
    # Three learners, each of parameters and two moments in float32, cut in eight; a
    # critic has a head of 4097 in place of the projection.
    critic_size = PARAMETERS - 32_000 * 4096 + 4097
    expected = (PARAMETERS + 2 * critic_size) * 3 * 4 / 8
    # Norms, which are not cut, and counters come to a few megabytes.
    assert sum(jax.tree.leaves(held)) == pytest.approx(expected, rel=1e-3)
    assert expected < 31e9


def test_no_rule_of_the_optimizer_misses_a_leaf():
    # The moments of every matrix of a tiny model are cut as the matrix is.
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    scratch = load('sft', 'tiny').model.scratch.to_dict()
    model = transformer.CausalLM(
        model_config.TransformerConfig(vocab_size=384, **scratch)
    )
    params = hf.abstract_params(model)
    moments = jax.eval_shape(optax.adam(1e-3).init, params)[0].mu
    cut = sharding.state_shardings(mesh, {'mu': moments}, transformer.RULES)['mu']
    assert cut == sharding.param_shardings(mesh, transformer.RULES, params)
