"""Models that are missing, of another kind or damaged, by their directories."""

import json
import shutil

import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax import train
from beaver_jax.models import saving
from tests import micro

# ---- Of another kind ----------------------------------------------------------------


def test_an_init_without_a_model(configs, started, tmp_path):
    (tmp_path / 'empty').mkdir()
    overrides = {'costs.harm.init': tmp_path / 'empty'}
    argv = micro.arguments(configs, 'ppo_lag', started | overrides)
    line = micro.error(train.main, argv)
    assert line == (
        f"Error: config.costs.harm.init='{tmp_path}/empty' holds no model (config.json "
        'and model.safetensors); name a finished stage or a Hugging Face model '
        'directory.'
    )
    assert not (tmp_path / 'run').exists()


def test_a_causal_model_is_no_reward_model(configs, started, chain):
    overrides = {'reward.init': chain / 'sft'}
    argv = micro.arguments(configs, 'ppo_lag', started | overrides)
    line = micro.error(train.main, argv)
    assert 'a causal LM, not a score model' in line
    assert 'configs/reward.py' in line


def test_a_cost_model_without_that_output(configs, started):
    argv = micro.arguments(configs, 'ppo_lag', started | {'costs.harm.output': 1})
    line = micro.error(train.main, argv)
    assert line == 'Error: config.costs.harm.output=1: the model has outputs 0 to 0.'


@pytest.mark.parametrize(
    'layers, expected',
    [
        (1, 'left over: model.layers.1.'),
        (3, 'missing: model.layers.2.'),
    ],
)
def test_weights_of_another_architecture(
    layers, expected, chain, configs, supervised, tmp_path
):
    model = tmp_path / 'model'
    shutil.copytree(chain / 'sft' / 'model', model)
    config = json.loads((model / 'config.json').read_text())
    config['num_hidden_layers'] = layers
    (model / 'config.json').write_text(json.dumps(config))
    argv = micro.arguments(configs, 'reward', supervised | {'model.init': model})
    line = micro.error(train.main, argv)
    assert line.startswith(
        f'Error: {model}: weights do not fit the model in config.json'
    )
    assert expected in line


# ---- Damaged ------------------------------------------------------------------------


def truncate(model):
    path = model / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-1])
    return f'{path}: cannot be read ('


def lose_a_file(model):
    tensors = safetensors_numpy.load_file(model / 'model.safetensors')
    config = json.loads((model / 'config.json').read_text())
    saving.save(model, config, tensors, shard_bytes=1)
    lost = min(model.glob('model-*-of-*'))
    lost.unlink()
    return f'{model}: no {lost.name}.'


def change_config(model, **fields):
    config = json.loads((model / 'config.json').read_text())
    (model / 'config.json').write_text(json.dumps(config | fields))


def another_family(model):
    change_config(model, model_type='mamba')
    return f"{model}/config.json: model_type='mamba' is not known; known: bloom, "


def cut_the_vocabulary(model, by=8):
    path = model / 'model.safetensors'
    tensors = safetensors_numpy.load_file(path)
    count = len(tensors['lm_head.weight'])
    for name in ('lm_head.weight', 'model.embed_tokens.weight'):
        tensors[name] = tensors[name][: count - by]
    safetensors_numpy.save_file(tensors, path)
    return count


def wrong_shapes(model):
    count = cut_the_vocabulary(model)
    return f'wrong shape: model.embed_tokens.weight is ({count - 8}, 16), not ({count},'


def more_tokens_than_embeddings(model):
    count = cut_the_vocabulary(model)
    change_config(model, vocab_size=count - 8)
    return f'the tokenizer has {count} tokens, the model {count - 8} embeddings; use'


def an_adapter(model):
    (model / 'config.json').rename(model / 'adapter_config.json')
    return f"config.model.init='{model}' is an adapter, not a model; name the stage"


@pytest.mark.parametrize(
    'damage',
    [
        truncate,
        lose_a_file,
        another_family,
        wrong_shapes,
        more_tokens_than_embeddings,
        an_adapter,
    ],
)
@pytest.mark.parametrize('rank', [0, 2])
def test_a_damaged_model(damage, rank, chain, configs, supervised, tmp_path):
    model = tmp_path / 'damaged'
    shutil.copytree(chain / 'sft' / 'model', model)
    expected = damage(model)
    overrides = supervised | {'model.init': model, 'model.lora.rank': rank}
    line = micro.error(train.main, micro.arguments(configs, 'reward', overrides))
    assert expected in line
    assert not list((tmp_path / 'run').rglob('checkpoints'))
