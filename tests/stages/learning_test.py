"""Runs with adapters: what learns, what stays, and what is left behind."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax import config as config_lib
from beaver_jax import export
from beaver_jax import metrics
from beaver_jax import sharding
from beaver_jax import train
from beaver_jax.chat import __main__ as chat
from beaver_jax.models import fingerprint
from beaver_jax.models import hf
from beaver_jax.models import quantize
from beaver_jax.stages import inputs
from beaver_jax.stages import ppo_lag
from beaver_jax.stages import ppo_models
from beaver_jax.stages import sft
from tests import micro

LORA = {'rank': 4, 'alpha': 8}


def overrides(*sections, **more):
    fields = LORA | more
    return {
        f'{s}.lora.{name}': value for s in sections for name, value in fields.items()
    }


def names(tree):
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {sharding.path_string(path).rpartition('/')[2] for path, _ in paths}


def tensors(directory):
    return safetensors_numpy.load_file(directory / 'model.safetensors')


def exported_as_at_the_end(stage, tmp_path):
    """Whether a checkpoint alone gives the model that the stage has left."""
    left = (stage / 'model').rename(tmp_path / 'left')
    out = tmp_path / 'out'
    export.main([str(stage), '--out', str(out)])
    # Kernels are merged on another mesh, whose products are rounded otherwise.
    expected, found = tensors(left), tensors(out)
    assert expected.keys() == found.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-6, err_msg=name)
    for name in ('config.json', 'tokenizer.json'):
        assert (out / name).read_bytes() == (left / name).read_bytes()


def test_sft_leaves_a_merged_model_and_an_adapter(chain, configs, few_rows, tmp_path):
    run = tmp_path / 'run'
    more = {'run': run, **few_rows, 'base': chain / 'sft', **overrides('model')}
    train.main(micro.arguments(configs, 'sft', more))
    before, after = tensors(chain / 'sft' / 'model'), tensors(run / 'sft' / 'model')
    changed = {name for name in before if np.any(before[name] != after[name])}
    # Linear maps of the layers alone; embeddings, norms and the head are as they were.
    assert changed == {name for name in before if '_proj' in name}
    adapter = run / 'sft' / 'adapter'
    settings = json.loads((adapter / 'adapter_config.json').read_text())
    assert (settings['r'], settings['lora_alpha']) == (4, 8.0)
    base = (chain / 'sft' / 'model').resolve()
    assert settings['base_model_name_or_path'] == str(base)
    held = safetensors_numpy.load_file(adapter / 'adapter_model.safetensors')
    name = 'base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight'
    a, b = held[name.format('A')], held[name.format('B')]
    # Scale 8/4.
    merged = 'model.layers.1.self_attn.q_proj.weight'
    np.testing.assert_allclose(after[merged], before[merged] + 2 * b @ a, atol=1e-6)
    exported_as_at_the_end(run / 'sft', tmp_path)
    out = tmp_path / 'adapter'
    export.main([str(run / 'sft'), '--out', str(out), '--adapter'])
    # With the tokenizer, whose template the base's may not be.
    for file in ('adapter_config.json', 'adapter_model.safetensors', 'tokenizer.json'):
        assert (out / file).read_bytes() == (adapter / file).read_bytes()
    assert 'library_name: peft' in (out / 'README.md').read_text()


def test_adapters_resume_as_one_run_left_alone(
    chain, configs, few_rows, tmp_path, capsys
):
    run = tmp_path / 'run'
    more = {'run': run, **few_rows, 'base': chain / 'sft', **overrides('model')}
    argv = micro.arguments(configs, 'sft', more)
    train.main(argv)
    rows = (run / 'sft' / 'metrics.jsonl').read_bytes()
    weights = micro.weights(run / 'sft' / 'model')
    # As after a kill between steps 2 and 4.
    (run / 'sft' / 'summary.json').unlink()
    shutil.rmtree(run / 'sft' / 'checkpoints' / '4')
    shutil.rmtree(run / 'sft' / 'model')
    train.main(argv)
    assert 'resumed after step 2 of 4' in capsys.readouterr().err
    assert (run / 'sft' / 'metrics.jsonl').read_bytes() == rows
    assert micro.weights(run / 'sft' / 'model') == weights


def test_adapters_go_on_over_their_own_base_alone(
    chain, configs, few_rows, tmp_path, capsys
):
    base = tmp_path / 'base'
    shutil.copytree(chain / 'sft' / 'model', base)
    more = {'run': tmp_path / 'run', **few_rows, 'base': base, **overrides('model')}
    argv = micro.arguments(configs, 'sft', more)
    train.main(argv)
    stage = tmp_path / 'run' / 'sft'
    (stage / 'summary.json').unlink()
    shutil.rmtree(stage / 'checkpoints' / '4')

    weights = tensors(base)
    whole = (base / 'model.safetensors').read_bytes()
    changed = {name: value * np.float32(1.001) for name, value in weights.items()}
    safetensors_numpy.save_file(changed, base / 'model.safetensors')
    before = micro.snapshot(stage / 'checkpoints')
    assert micro.error(train.main, argv) == (
        'Error: the weights of config.model.init are not those that the adapters of '
        'the checkpoint have learnt on. Put those weights back, or start anew with '
        'another config.run or config.if_exists=overwrite.'
    )
    assert micro.snapshot(stage / 'checkpoints') == before
    line = micro.error(export.main, [str(stage), '--out', str(tmp_path / 'out')])
    assert line.startswith('Error: the weights of config.model.init are not those')
    (base / 'model.safetensors').write_bytes(whole)
    train.main(argv)
    assert 'resumed after step 2 of 4' in capsys.readouterr().err


def test_a_policy_learns_adapters_over_shared_models(
    chain, configs, few_rows, tmp_path, capsys
):
    starts = micro.models(chain, 'sft', 'reward', 'cost')
    more = {'run': tmp_path / 'run', **few_rows, **starts}
    more |= overrides('actor', 'critic')
    argv = micro.arguments(configs, 'ppo_lag', more | {'iterations': 2})
    config = config_lib.from_argv(argv)
    mesh = sharding.make_mesh(**config.mesh)
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    loaded = ppo_models.load(config, mesh, tokenizer, ('harm',))
    # One copy of each model in memory.
    assert loaded.frozen['reference'] is loaded.actor.base
    for critic, scorer in (
        (loaded.reward_critic, loaded.frozen['reward']),
        (loaded.cost_critics['harm'], loaded.frozen['costs']['harm']),
    ):
        assert critic.base['backbone'] is scorer['model']['backbone']
        assert names(critic.params) == {'lora_a', 'lora_b', 'kernel', 'bias'}

    stage = ppo_lag.build(config, mesh)
    bases = {'actor.init': 'sft', 'reward.init': 'reward', 'costs.harm.init': 'cost'}
    assert stage.bases == {
        key: fingerprint.of(chain / name / 'model') for key, name in bases.items()
    }
    for learner in (stage.state.actor, stage.state.cost_critics['harm']):
        moments = {
            path
            for path in names(learner.opt_state)
            if path in ('embedding', 'scale', 'kernel')
        }
        assert moments <= names(learner.params)
    assert names(stage.state.actor.params) == {'lora_a', 'lora_b'}

    train.main(argv)
    before = tensors(chain / 'sft' / 'model')
    after = tensors(tmp_path / 'run' / 'ppo_lag' / 'model')
    changed = {name for name in before if np.any(before[name] != after[name])}
    assert changed == {name for name in before if '_proj' in name}
    rows = metrics.read(tmp_path / 'run' / 'ppo_lag' / 'metrics.jsonl')
    assert all(row['train/bad_steps'] == 0 for row in rows)
    # The first ratios are 1: the sampled policy is the scored one.
    assert rows[0]['train/kl_divergence'] == pytest.approx(0, abs=1e-4)
    # The merged model is evaluated at the end, and talks.
    results = json.loads((tmp_path / 'run' / 'evaluate' / 'results.json').read_text())
    assert {'sft', 'ppo_lag'} <= results['models'].keys()
    capsys.readouterr()
    answer = ['--prompt', 'Hello', '--max_new_tokens', '2']
    chat.main([str(tmp_path / 'run' / 'ppo_lag'), *answer])
    assert capsys.readouterr().out.endswith('\n')
    exported_as_at_the_end(tmp_path / 'run' / 'ppo_lag', tmp_path)


def test_a_policy_learns_adapters_over_few_bits(chain, configs, few_rows, tmp_path):
    starts = micro.models(chain, 'sft', 'reward', 'cost')
    more = {'run': tmp_path / 'run', **few_rows, **starts}
    more |= overrides('actor', 'critic')
    more |= {'actor.quantize': 'int4', 'reward.quantize': 'int8', 'iterations': 2}
    micro.train_alone(micro.arguments(configs, 'ppo_lag', more))
    stage = tmp_path / 'run' / 'ppo_lag'
    rows = metrics.read(stage / 'metrics.jsonl')
    assert all(row['train/bad_steps'] == 0 for row in rows)
    # The reference has the same few bits.
    assert rows[0]['train/kl_divergence'] == pytest.approx(0, abs=1e-4)
    # What is left is what the bits stand for, and what was learnt on them.
    name = 'model.layers.1.self_attn.q_proj'
    held = safetensors_numpy.load_file(stage / 'adapter' / 'adapter_model.safetensors')
    a, b = (held[f'base_model.model.{name}.lora_{part}.weight'] for part in 'AB')
    kernel = tensors(chain / 'sft' / 'model')[f'{name}.weight'].T
    few = quantize.quantize(kernel, 'int4')
    wide = np.asarray(quantize.dequantize(few, 'float32')).T
    merged = tensors(stage / 'model')[f'{name}.weight']
    assert np.abs(wide - kernel.T).max() > 1e-3
    np.testing.assert_allclose(merged, wide + 2 * b @ a, atol=1e-6)


def test_score_models_learn_adapters_and_their_head(chain, configs, few_rows, tmp_path):
    run = tmp_path / 'run'
    more = {'run': run, **few_rows, 'model.init': chain / 'sft', **overrides('model')}
    train.main(micro.arguments(configs, 'cost', more))
    before, after = tensors(chain / 'sft' / 'model'), tensors(run / 'cost' / 'model')
    backbone = before.keys() & after.keys()
    changed = {name for name in backbone if np.any(before[name] != after[name])}
    assert changed == {name for name in backbone if '_proj' in name}
    model, _, _ = hf.load_score_model(run / 'cost' / 'model')
    assert model.config.score_type == 'cost'
    exported_as_at_the_end(run / 'cost', tmp_path)
    out, left = tmp_path / 'adapter', run / 'cost' / 'adapter'
    export.main([str(run / 'cost'), '--out', str(out), '--adapter'])
    for file in left.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert (left / 'score_config.json').is_file()


def test_bad_adapters_are_refused(chain, configs, few_rows, tmp_path):
    def line(name, **changes):
        more = {'run': tmp_path / 'run', **few_rows, **changes}
        return micro.error(train.main, micro.arguments(configs, name, more))

    tokenizer = {'model.tokenizer': chain / 'world' / 'tokenizer'}
    assert line('sft', **tokenizer, **overrides('model')) == (
        'Error: config.model.lora.rank=4 adapts a trained model; name it with '
        '--config.base=DIRECTORY.'
    )
    found = line('sft', base=chain / 'sft', **overrides('model', targets='none'))
    assert found.startswith(
        "Error: config.model.lora.targets='none' matches none of: layers/attention/k, "
    )
    assert line('sft', base=chain / 'sft', **overrides('model', rank=-2)) == (
        'Error: config.model.lora.rank=-2; must not be negative.'
    )
    few = {'base': chain / 'sft', 'model.quantize': 'int8'}
    assert line('sft', **few) == (
        "Error: config.model.quantize='int8' is for frozen parameters; let adapters "
        'learn over them, --config.lora.rank=16, or leave it at none.'
    )
    assert line('sft', **few | {'model.quantize': 'int2'}) == (
        "Error: config.model.quantize='int2'; known: none, int8, int4."
    )
    starts = micro.models(chain, 'sft', 'reward', 'cost')
    few = starts | overrides('actor') | {'reference.quantize': 'int8'}
    assert line('ppo_lag', **few) == (
        "Error: config.reference.quantize='int8', but its model is the one that "
        'config.actor stands on; set --config.actor.quantize instead.'
    )
    few = starts | overrides('actor', 'critic') | {'critic.quantize': 'int8'}
    assert line('ppo_lag', **few) == (
        "Error: config.critic.quantize='int8', but the critic of config.reward stands "
        'on that model; set --config.reward.quantize instead.'
    )


def test_a_frozen_base_has_the_type_it_computes_in(chain, configs, few_rows, tmp_path):
    more = {'run': tmp_path / 'run', **few_rows, 'base': chain / 'sft'}
    more |= {'model.dtype': 'bfloat16', **overrides('model')}
    config = config_lib.from_argv(micro.arguments(configs, 'sft', more))
    mesh = sharding.make_mesh(**config.mesh)
    _, learning, _ = sft.load(config, mesh)
    assert {str(x.dtype) for x in jax.tree.leaves(learning.base)} == {'bfloat16'}
    assert {str(x.dtype) for x in jax.tree.leaves(learning.params)} == {'float32'}
