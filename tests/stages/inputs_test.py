"""What a stage starts from."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import optim
from beaver_jax import sharding
from beaver_jax.stages import inputs
from beaver_jax.stages import loading
from tests import micro
from tests import tiny
from tests.serve import small


def config(**values):
    return ml_collections.ConfigDict(values)


def model(directory, weights=True):
    directory.mkdir(parents=True)
    (directory / 'config.json').write_text('{}')
    if weights:
        (directory / 'model.safetensors').write_bytes(b'')
    return directory


def test_a_model_is_found_in_a_stage_or_by_itself(tmp_path):
    inside = model(tmp_path / 'sft' / 'model')
    # A stage has a config.json too, of another kind.
    (tmp_path / 'sft' / 'config.json').write_text('{}')
    alone = model(tmp_path / 'alone')
    assert inputs.find_model(str(tmp_path / 'sft')) == inside
    assert inputs.find_model(str(inside)) == inside
    assert inputs.find_model(str(alone)) == alone


def test_a_stage_that_is_not_finished_holds_no_model(tmp_path):
    model(tmp_path / 'sft', weights=False)
    (tmp_path / 'sft' / 'model.partial').mkdir()
    assert inputs.find_model(str(tmp_path / 'sft')) is None
    with pytest.raises(
        inputs.InputError, match=r"config\.actor\.init='.*sft' holds no"
    ):
        inputs.model_directory('actor.init', str(tmp_path / 'sft'))
    with pytest.raises(inputs.InputError, match=r'config\.actor\.init is empty; name'):
        inputs.model_directory('actor.init', '')


def test_where_no_model_is_those_inside_are_named(tmp_path):
    run = tmp_path / 'run'
    small.language_model(run / 'sft' / 'model')
    small.score_model(run / 'cost' / 'model', 'cost')
    small.score_model(run / 'reward', 'reward')
    model(run / 'broken')
    assert inputs.no_model(str(run)).endswith(
        f'directory. Language models in it: {run / "sft"}. '
        f'Score models in it: {run / "cost"}, {run / "reward"}.'
    )
    assert 'in it' not in inputs.no_model(str(tmp_path / 'elsewhere'))
    (tmp_path / 'adapter_config.json').write_text('{}')
    assert inputs.no_model(str(tmp_path)).startswith('is an adapter, not a model; ')


def test_settings_name_their_section():
    section = config(learning_rate=1.0)
    found = inputs.settings(optim.OptimizerConfig, 'optimizer', section, b1=0.5)
    assert found == optim.OptimizerConfig(learning_rate=1.0, b1=0.5)
    with pytest.raises(
        inputs.InputError, match=r'^config\.optimizer\.b1=2\.0; must be'
    ):
        inputs.settings(optim.OptimizerConfig, 'optimizer', section, b1=2.0)


@pytest.mark.parametrize(
    'steps, epochs, rows, expected',
    [
        (7, 3.0, 100, 7),  # steps count over epochs
        (0, 3.0, 100, 19),  # 3·100/16 = 18.75
        (0, 0.5, 100, 3),  # 0.5·100/16 = 3.125
        (0, 0.01, 100, 1),  # at least one
    ],
)
def test_steps_of_a_supervised_stage(steps, epochs, rows, expected):
    values = config(steps=steps, epochs=epochs, batch_size=16)
    assert inputs.count_steps(values, rows) == expected


@pytest.mark.parametrize('steps, epochs', [(0, 0.0), (-1, 3.0), (0, float('nan'))])
def test_no_steps_are_refused(steps, epochs):
    values = config(steps=steps, epochs=epochs, batch_size=16)
    with pytest.raises(inputs.InputError, match=f'config.steps={steps} and config.epo'):
        inputs.count_steps(values, 100)


def test_parts_cut_the_rows_of_every_device():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    for parts in (1, 2, 4):  # 16 rows on 4 devices: 4 each
        inputs.check_parts('parts', 16, parts, mesh)
    for parts in (0, 3, 8):
        with pytest.raises(
            inputs.InputError, match=f'config.parts={parts} does not cut'
        ):
            inputs.check_parts('parts', 16, parts, mesh)


# ---- Heads --------------------------------------------------------------------------


def test_a_fresh_head_sits_on_the_decoder_as_it_is():
    backbone = {'vocab_size': 12, 'head_dim': 4}  # sizes that 2×2 devices cut
    model, params = tiny.score_model(backbone=backbone, score_dim=2)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    decoder = jax.tree.map(jnp.copy, params['backbone'])
    fresh = loading.init_head(mesh, model, decoder, jax.random.key(0))
    for mine, theirs in zip(
        jax.tree.leaves(fresh['backbone']),
        jax.tree.leaves(params['backbone']),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(fresh['score_head']['bias'], np.zeros(2))
    assert fresh['score_head']['kernel'].shape == params['score_head']['kernel'].shape
    again = loading.init_head(mesh, model, decoder, jax.random.key(0))
    other = loading.init_head(mesh, model, decoder, jax.random.key(1))
    kernels = [np.asarray(x['score_head']['kernel']) for x in (fresh, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()


@pytest.mark.parametrize(
    'dtype, backend, expected',
    [
        ('auto', 'cpu', 'float32'),
        ('auto', 'gpu', 'bfloat16'),
        ('auto', 'tpu', 'bfloat16'),
        ('float32', 'gpu', 'float32'),
        ('bfloat16', 'cpu', 'bfloat16'),
    ],
)
def test_types_of_computation_and_parameters(dtype, backend, expected, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    section = config(dtype=dtype, remat='none', logits_chunk=None)
    assert inputs.compute(section, 'actor')['dtype'] == expected
    assert inputs.param_dtype(section, frozen=True) == expected
    assert inputs.param_dtype(section, frozen=False) == 'float32'


def test_what_auto_is_is_said_once(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    run = config_lib.load(f'{micro.ROOT}/configs/ppo_lag.py:local', {'seed': '1'})
    other = config_lib.load(
        f'{micro.ROOT}/configs/ppo_lag.py:local', {'reward.dtype': 'float32'}
    )
    for one, reward in ((run, 'bfloat16'), (other, 'float32')):
        inputs.settle(one)
        found = {k: v for k, v in config_lib.flatten(one).items() if 'dtype' in k}
        assert found.pop('reward.dtype') == reward
        assert set(found.values()) == {'bfloat16'}
        assert len(found) == 5


def test_a_tokenizer_with_more_tokens_than_embeddings(chain):
    tokenizer = inputs.load_tokenizer('model.init', str(chain / 'sft'))
    count = len(tokenizer)
    inputs.check_tokenizer(tokenizer, tiny.config(vocab_size=count), 'config.model')
    with pytest.raises(inputs.InputError) as caught:
        inputs.check_tokenizer(tokenizer, tiny.config(), 'config.model')
    assert str(caught.value).startswith(
        f'config.model: the tokenizer has {count} tokens, the model 13 embeddings; '
    )
