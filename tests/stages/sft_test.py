"""SFT: vocabularies that the mesh does not divide or that grow, and templates."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax import train
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.stages import sft
from tests import micro
from tests import tiny
from tests import vocabularies

GPT2 = tiny.GPT2 | {'num_layers': 1, 'max_positions': 64}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """A GPT-2 of 331 tokens, one more than its tokenizer has."""
    directory = tmp_path_factory.mktemp('base')
    tokenizer = tokenizer_lib.load(vocabularies.byte_level(directory / 't', 'gpt2'))
    model, params = tiny.causal_lm(vocab_size=331, **GPT2)
    hf.save_causal_lm(directory, model.config, params)
    tokenizer_lib.save(tokenizer, directory)
    return directory


def copied(base, directory, change):
    """A model's directory again, its tokenizer changed."""
    shutil.copytree(base, directory)
    tokenizer = tokenizer_lib.load(base)
    change(tokenizer)
    tokenizer_lib.save(tokenizer, directory)
    return directory


@pytest.fixture(scope='module')
def grown(base, tmp_path_factory):
    """The same with a tokenizer that has gained three tokens, two too many."""
    directory = tmp_path_factory.mktemp('grown') / 'model'
    tokens = ['<a>', '<b>', '<c>']
    return copied(base, directory, lambda tokenizer: tokenizer.add_tokens(tokens))


@pytest.fixture
def arguments(tmp_path):
    def arguments(base, **changes):
        rows = [{'prompt': f'Who? {i}', 'response': 'I cannot say.'} for i in range(8)]
        overrides = {
            'run': tmp_path / 'run',
            'base': base,
            'data.sft': micro.write_rows(tmp_path / 'sft.jsonl', rows),
            'data.test_share': 0,
            'batch_size': 4,
            'steps': 1,
            'max_length': 40,
            **micro.MESH,
            **{name.replace('__', '.'): value for name, value in changes.items()},
        }
        options = [f'--config.{key}={value}' for key, value in overrides.items()]
        return [f'--config={micro.ROOT / "configs" / "sft.py"}:local', *options]

    return arguments


def stored(directory):
    tensors = safetensors_numpy.load_file(directory / 'model.safetensors')
    config = json.loads((directory / 'config.json').read_text())
    return tensors['transformer.wte.weight'], config['vocab_size']


def test_an_odd_vocabulary_is_trained_on_two_tensor_shards(base, arguments, tmp_path):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    stage = sft.build(config_lib.from_argv(arguments(base)), mesh)
    embedding = stage.state.model.params['embed']['embedding']
    assert embedding.shape == (384, 16)  # 3·128
    with jax.set_mesh(mesh):
        state, metrics, _ = stage.step(stage.state, next(stage.feed), jax.random.key(0))
    assert np.isfinite(metrics['train/loss'])
    stage.export(state, tmp_path / 'model')
    table, size = stored(tmp_path / 'model')
    assert (table.shape, size) == ((331, 16), 331)
    assert not np.array_equal(table, stored(base)[0])
    # Nothing has flown into the padding.
    assert not np.asarray(state.model.params['embed']['embedding'])[331:].any()


def test_new_tokens_are_refused_unless_they_are_asked_for(grown, arguments):
    line = micro.error(train.main, arguments(grown))
    assert 'config.model: the tokenizer has 333 tokens, the model 331 embedd' in line
    assert '--config.model.resize_vocabulary=True' in line


def test_new_tokens_are_no_work_for_adapters(grown, arguments):
    changes = {'model__resize_vocabulary': True, 'model__lora__rank': 2}
    line = micro.error(train.main, arguments(grown, **changes))
    assert line.startswith('Error: config.model.resize_vocabulary=True gives the model')


def test_new_tokens_get_embeddings_where_they_are_asked_for(grown, arguments, tmp_path):
    config = config_lib.from_argv(arguments(grown, model__resize_vocabulary=True))
    stage = sft.build(config, sharding.make_mesh(data=2, fsdp=2, tensor=2))
    stage.export(stage.state, tmp_path / 'model')
    table, size = stored(tmp_path / 'model')
    before, _ = stored(grown)
    assert (table.shape, size) == ((333, 16), 333)
    np.testing.assert_array_equal(table[:331], before)
    np.testing.assert_allclose(table[332], before.mean(axis=0), atol=1e-6)
    assert len(tokenizer_lib.load(tmp_path / 'model')) == 333


def test_a_model_computes_in_bfloat16_over_float32(base, arguments, tmp_path):
    def weights(dtype):
        run = tmp_path / dtype
        rate = {'optimizer__learning_rate': 1e-3, 'optimizer__warmup_ratio': 0}
        train.main(arguments(base, dtype=dtype, run=run, **rate))
        return safetensors_numpy.load_file(run / 'sft' / 'model' / 'model.safetensors')

    wide, narrow = weights('float32'), weights('bfloat16')
    assert {x.dtype for x in narrow.values()} == {np.dtype('float32')}
    # AdamW first moves a weight by its rate, up or down: tiny gradients' signs differ.
    moved = [np.abs(wide[name] - narrow[name]).max() for name in wide]
    assert 1e-4 < max(moved) < 2.1e-3


# ---- Conversation templates ---------------------------------------------------------

OWN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '|' }}{% endfor %}"


@pytest.fixture(scope='module')
def instructed(base, tmp_path_factory):
    """The base with a chat template of its own."""
    directory = tmp_path_factory.mktemp('instructed') / 'model'
    return copied(base, directory, lambda x: setattr(x, 'chat_template', OWN))


@pytest.fixture(scope='module')
def raw(base, tmp_path_factory):
    """The base as others publish such models, without any chat template."""
    directory = tmp_path_factory.mktemp('raw') / 'model'
    shutil.copytree(base, directory)
    (directory / 'chat_template.jinja').unlink()
    return directory


@pytest.mark.parametrize(
    'wanted, expected',
    [
        ('chat', "config.data.template='chat': The tokenizer in "),
        ('alpaca', "config.data.template='alpaca'; known: beaver, chat, or empty"),
    ],
)
def test_a_template_that_the_base_lacks_is_refused(
    wanted, expected, raw, arguments, tmp_path
):
    line = micro.error(train.main, arguments(raw, data__template=wanted))
    assert expected in line
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('wanted', ['', 'chat', 'beaver'])
def test_the_template_is_learnt_from_and_exported(
    wanted, instructed, arguments, tmp_path
):
    config = config_lib.from_argv(arguments(instructed, data__template=wanted))
    stage = sft.build(config, sharding.make_mesh(data=2, fsdp=2, tensor=2))
    stage.export(stage.state, tmp_path / 'model')
    tokenizer = tokenizer_lib.load(tmp_path / 'model')
    own = wanted != 'beaver'
    assert tokenizer.chat_template == (OWN if own else template.JINJA)
    batch = next(stage.feed)['sft']
    text = tokenizer.decode(batch.tokens[0][batch.mask[0]])
    begin = 'user: Who?' if own else '<|endoftext|>BEGINNING OF CONVERSATION: USER: Who'
    assert text.startswith(begin)
    assert text.endswith('I cannot say.<|endoftext|>')
