import json

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax import sharding
from beaver_jax.models import hf
from beaver_jax.models import hf_config
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.models import weights
from tests import tiny


@pytest.fixture
def lm(tmp_path):
    """A directory with a language model."""
    model, params = tiny.causal_lm(qkv_bias=True, o_bias=True)
    hf.save_causal_lm(tmp_path / 'lm', model.config, params)
    return tmp_path / 'lm'


@pytest.fixture
def reward(tmp_path):
    """A directory with a reward model of two outputs."""
    model, params = tiny.score_model(
        score_dim=2, normalizer_type='ExponentialMovingAverage', momentum=0.9
    )
    normalizer = score.Normalizer(
        jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), jnp.int32(5)
    )
    hf.save_score_model(tmp_path / 'reward', model.config, params, normalizer)
    return tmp_path / 'reward'


def edit_config(directory, **fields):
    """Sets fields of config.json, and removes those that are None."""
    path = directory / 'config.json'
    config = json.loads(path.read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(kept))


def edit_tensors(directory, remove=(), **tensors):
    path = directory / weights.WEIGHTS
    held = safetensors_numpy.load_file(path) | {
        name.replace('__', '.'): value for name, value in tensors.items()
    }
    kept = {name: value for name, value in held.items() if name not in remove}
    safetensors_numpy.save_file(kept, path)
    return kept


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_language_model_returns_as_it_was_saved(lm):
    model, params = tiny.causal_lm(qkv_bias=True, o_bias=True)
    loaded, read = hf.load_causal_lm(lm)
    assert loaded.config == model.config
    assert_equal(read, params)


def test_names_and_orientation_are_pytorchs():
    model, params = tiny.causal_lm(qkv_bias=True, o_bias=True)
    tensors = hf.export_names(model.config, params)
    # Per layer: two norms, four kernels with biases, three kernels without; besides
    # them the embedding, the final norm and the head.
    assert len(tensors) == 2 * (2 + 2 * 4 + 3) + 3
    np.testing.assert_array_equal(
        tensors['model.layers.1.mlp.up_proj.weight'],  # [out, in]
        params['layers']['mlp']['up']['kernel'][1].T,
    )
    np.testing.assert_array_equal(
        tensors['model.layers.0.self_attn.k_proj.bias'],
        params['layers']['attention']['k']['bias'][0],
    )
    np.testing.assert_array_equal(
        tensors['model.embed_tokens.weight'], params['embed']['embedding']
    )


def test_a_score_model_returns_as_it_was_saved(reward):
    model, params = tiny.score_model(
        score_dim=2, normalizer_type='ExponentialMovingAverage', momentum=0.9
    )
    loaded, read, normalizer = hf.load_score_model(reward)
    assert loaded.config == model.config
    assert_equal(read, params)
    np.testing.assert_array_equal(normalizer.mean, [1.0, 2.0])
    np.testing.assert_array_equal(normalizer.var, [3.0, 4.0])
    assert int(normalizer.count) == 5
    config = json.loads((reward / 'config.json').read_text())
    assert config['architectures'] == ['LlamaForScore']
    assert config['mean'] == [1.0, 2.0]
    assert config['momentum'] == 0.9
    stored = safetensors_numpy.load_file(reward / weights.WEIGHTS)
    assert stored['normalizer.count'].dtype == np.int64
    assert stored['normalizer.count'].shape == (1,)
    assert stored['score_head.weight'].shape == (2, 16)


def test_the_older_layout_of_score_models_loads(tmp_path):
    model, params = tiny.score_model(score_bias=False)
    state = score.init_normalizer(1)
    hf.save_score_model(tmp_path, model.config, params, state)
    edit_config(
        tmp_path,
        architectures=['LlamaModelForScore'],
        bias=False,
        score_bias=None,
        score_type=None,
        normalizer_type=None,
        mean=[2.5],
        var=[4.0],
    )
    buffers = {'normalizer.mean', 'normalizer.var', 'normalizer.count'}
    edit_tensors(tmp_path, remove=buffers)
    loaded, read, normalizer = hf.load_score_model(tmp_path)
    assert not loaded.config.score_bias
    assert loaded.config.score_type == 'reward'
    assert_equal(read, params)
    assert (float(normalizer.mean[0]), float(normalizer.var[0])) == (2.5, 4.0)
    assert int(normalizer.count) == 0


def test_the_older_layout_may_have_a_bias(tmp_path):
    model, params = tiny.score_model(score_bias=True)
    state = score.init_normalizer(1)
    hf.save_score_model(tmp_path, model.config, params, state)
    edit_config(tmp_path, bias=True, score_bias=None)
    assert_equal(hf.load_score_model(tmp_path)[1], params)


def test_a_backbone_is_the_model_without_its_head(lm, reward):
    _, params = tiny.causal_lm(qkv_bias=True, o_bias=True)
    config, decoder = hf.load_backbone(lm)
    assert config == tiny.config(qkv_bias=True, o_bias=True)
    assert_equal(decoder, {k: v for k, v in params.items() if k != 'lm_head'})
    _, params = tiny.score_model(score_dim=2)
    assert_equal(hf.load_backbone(reward)[1], params['backbone'])


def test_changes_and_parameter_types_are_separate(lm):
    model, params = hf.load_causal_lm(lm, dtype='bfloat16', remat='full')
    assert (model.config.dtype, model.config.remat) == ('bfloat16', 'full')
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    model, params = hf.load_causal_lm(lm, param_dtype='bfloat16')
    assert model.config.dtype == 'float32'
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}


def test_bfloat16_files_load_and_save(lm):
    model, params = hf.load_causal_lm(lm, param_dtype='bfloat16')
    hf.save_causal_lm(lm, model.config, params)
    stored = safetensors_numpy.load_file(lm / weights.WEIGHTS)
    assert {x.dtype for x in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((lm / 'config.json').read_text())['torch_dtype'] == 'bfloat16'
    _, wide = hf.load_causal_lm(lm)
    assert_equal(wide, jax.tree.map(lambda x: x.astype('float32'), params))


def test_a_tied_model_needs_no_head_and_ignores_one(tmp_path):
    model, params = tiny.causal_lm(tie_embeddings=True)
    hf.save_causal_lm(tmp_path, model.config, params)
    assert 'lm_head.weight' not in safetensors_numpy.load_file(
        tmp_path / weights.WEIGHTS
    )
    edit_tensors(tmp_path, lm_head__weight=np.ones((13, 16), 'float32'))
    assert_equal(hf.load_causal_lm(tmp_path)[1], params)


def test_old_rotary_buffers_are_ignored(lm):
    name = 'model__layers__0__self_attn__rotary_emb__inv_freq'
    edit_tensors(lm, **{name: np.ones(3, 'float32')})
    hf.load_causal_lm(lm)


def test_the_special_tokens_travel_in_the_config(tmp_path):
    model, params = tiny.causal_lm()
    hf.save_causal_lm(tmp_path, model.config, params, extra={'pad_token_id': 3})
    assert hf_config.read(tmp_path)['pad_token_id'] == 3


def test_parameters_are_read_into_shardings_slice_by_slice(tmp_path, monkeypatch):
    model, params = tiny.causal_lm(vocab_size=16, head_dim=8)
    hf.save_causal_lm(tmp_path, model.config, params)
    mesh = sharding.make_mesh(2, 2, 2)

    def place(abstract):
        return sharding.param_shardings(mesh, transformer.RULES, abstract)

    shapes = {}
    read = weights.Weights.read

    def spy(self, name, index=(), dtype=None):
        part = read(self, name, index, dtype)
        shapes.setdefault(name, set()).add(part.shape)
        return part

    monkeypatch.setattr(weights.Weights, 'read', spy)
    _, loaded = hf.load_causal_lm(tmp_path, place=place)
    assert_equal(loaded, params)
    for leaf, expected in zip(
        jax.tree.leaves(loaded), jax.tree.leaves(place(params)), strict=True
    ):
        assert leaf.sharding == expected
    up = loaded['layers']['mlp']['up']['kernel']  # [2, 16, 24]
    assert up.sharding.spec == PartitionSpec(None, 'fsdp', 'tensor')
    assert up.addressable_shards[0].data.shape == (2, 8, 12)
    # In PyTorch's orientation, a layer at a time; no device needs the whole.
    assert shapes['model.layers.1.mlp.up_proj.weight'] == {(12, 8)}
    assert shapes['model.layers.0.mlp.down_proj.weight'] == {(8, 12)}
    assert shapes['model.embed_tokens.weight'] == {(8, 8)}
    assert shapes['lm_head.weight'] == {(8, 8)}
    assert shapes['model.norm.weight'] == {(16,)}


def message(call, *args, **settings):
    with pytest.raises(hf.CheckpointError) as error:
        call(*args, **settings)
    return str(error.value)


def test_what_is_no_model_directory_is_refused(tmp_path):
    missing = tmp_path / 'missing'
    assert message(hf.load_causal_lm, missing) == f'{missing}: no such model directory.'
    empty = f'{tmp_path}: no config.json; not a model directory.'
    assert message(hf.load_causal_lm, tmp_path) == empty
    config = tmp_path / 'config.json'
    config.write_text('{"model_type": ')
    assert message(hf.load_causal_lm, tmp_path).startswith(f'{config}: not JSON: ')
    for text, family in (
        ('{"model_type": "bert"}', "'bert'"),
        ('{}', None),
        ('[]', None),
    ):
        config.write_text(text)
        assert message(hf.load_causal_lm, tmp_path) == (
            f'{config}: model_type={family} is not known; known: bloom, gemma, gemma2, '
            'gpt2, gpt_neo, gpt_neox, gptj, llama, mistral, opt, phi, qwen2, qwen3.'
        )


@pytest.mark.parametrize(
    ('fields', 'complaint'),
    [
        ({'hidden_size': None}, "the field 'hidden_size' is missing."),
        (
            {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
            "RoPE scaling {'type': 'dynamic', 'factor': 2.0} is not supported; known: "
            'default, linear, llama3, yarn.',
        ),
        (
            {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 1e4}},
            "RoPE scaling {'rope_type': 'llama3', 'rope_theta': 10000.0} has no ",
        ),
        (
            {'rope_scaling': {'type': 'linear', 'factor': 0}},
            'RoPE scaling factor=0.0; must be above 0.',
        ),
        (
            {'hidden_act': 'elu'},
            "activation 'elu' is not supported; known: silu, swish, gelu, gelu_new, "
            'gelu_fast, gelu_pytorch_tanh, relu.',
        ),
        (
            {'num_key_value_heads': 3},
            'num_kv_heads=3 does not divide num_heads=4.',
        ),
        ({'hidden_size': '16'}, ''),  # whatever Python says of a string
    ],
)
def test_a_config_that_the_decoder_does_not_know_is_refused(lm, fields, complaint):
    edit_config(lm, **fields)
    for load in (hf.load_causal_lm, hf.load_backbone):
        assert message(load, lm).startswith(f'{lm / "config.json"}: {complaint}')


def test_rope_parameters_of_newer_configs_are_read(lm):
    edit_config(
        lm, rope_theta=None, rope_parameters={'rope_type': 'default', 'rope_theta': 7.0}
    )
    assert hf.load_causal_lm(lm)[0].config.rope_theta == 7.0


def test_a_wrong_change_is_no_fault_of_the_directory(lm):
    with pytest.raises(ValueError, match=r"^remat='all'; known"):
        hf.load_causal_lm(lm, remat='all')


def test_score_models_and_language_models_are_told_apart(lm, reward):
    assert hf_config.is_score_model(hf_config.read(reward))
    assert not hf_config.is_score_model(hf_config.read(lm))
    assert message(hf.load_causal_lm, reward) == (
        f'{reward}: a score model (LlamaForScore), not a causal LM; name a language '
        'model here.'
    )
    assert message(hf.load_score_model, lm).startswith(
        f'{lm}: a causal LM, not a score model; train one from it with configs/'
    )


@pytest.mark.parametrize(
    ('fields', 'complaint'),
    [
        ({'score_type': 'value'}, "score_type='value'; known: "),
        ({'normalizer_type': 'Mean'}, "normalizer_type='Mean'; known: "),
        ({'hidden_size': None}, "the field 'hidden_size' is missing."),
    ],
)
def test_a_score_config_that_is_not_known_is_refused(reward, fields, complaint):
    edit_config(reward, **fields)
    expected = f'{reward / "config.json"}: {complaint}'
    assert message(hf.load_score_model, reward).startswith(expected)


def test_a_normalizer_of_another_size_is_refused(reward):
    edit_tensors(reward, normalizer__mean=np.zeros(3, 'float32'))
    assert message(hf.load_score_model, reward).startswith(
        f'{reward}: the normalizer does not fit score_dim=2: '
    )


def test_weights_that_do_not_fit_are_listed_on_both_sides(lm):
    edit_tensors(
        lm,
        remove=('model.norm.weight', 'model.layers.1.mlp.up_proj.weight'),
        model__layers__2__mlp__up_proj__weight=np.ones((24, 16), 'float32'),
        lm_head__weight=np.ones((13, 15), 'float32'),
    )
    assert message(hf.load_causal_lm, lm) == (
        f'{lm}: weights do not fit the model in config.json; '
        'missing: model.layers.1.mlp.up_proj.weight, model.norm.weight; '
        'left over: model.layers.2.mlp.up_proj.weight; '
        'wrong shape: lm_head.weight is (13, 15), not (13, 16)'
    )


def test_a_long_list_of_names_is_cut(lm):
    edit_config(lm, num_hidden_layers=3)
    text = message(hf.load_causal_lm, lm)
    assert text.count('model.layers.2.') == 8
    assert text.endswith(' …')
