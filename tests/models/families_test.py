"""Config translations: defaults, both ways, what is refused, and sharding rules."""

import jax
import pytest
import transformers

from beaver_jax import sharding
from beaver_jax.models import config as config_lib
from beaver_jax.models import families
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.models import transformer

# What every config.json states; all else may be left out.
STATED = (
    'model_type',
    'vocab_size',
    *('hidden_size', 'n_embd'),
    *('num_hidden_layers', 'num_layers', 'n_layer'),
    *('num_attention_heads', 'num_heads', 'n_head'),
    *('intermediate_size', 'ffn_dim'),
)
SMALL = {
    'hidden_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'vocab_size': 64,
}
every_family = pytest.mark.parametrize('name', sorted(families.FAMILIES))


def theirs(name, **fields):
    """config.json as `transformers` writes it."""
    return transformers.AutoConfig.for_model(name, **fields).to_dict()


def small(name, **fields):
    if name == 'gpt_neo':
        fields = {'attention_types': [[['global', 'local'], 1]], **fields}
    if name not in ('gpt2', 'gptj', 'bloom', 'gpt_neo', 'opt'):
        fields = {'intermediate_size': 64, **fields}
    if name == 'gptj':
        fields = {'rotary_dim': 4, **fields}
    if name == 'opt':
        fields = {'word_embed_proj_dim': 32, **fields}
    if name in ('mistral', 'qwen2', 'qwen3', 'gemma', 'gemma2'):
        fields = {'num_key_value_heads': 2, **fields}
    return theirs(name, **SMALL, **fields)


def translate(config):
    return families.FAMILIES[config['model_type']].from_hf(config)


@every_family
def test_what_config_json_leaves_out_has_the_default_of_its_class(name):
    full = theirs(name)
    stated = {key: full[key] for key in STATED if key in full}
    if name == 'bloom':  # the class has one, the decoder needs one
        full['seq_length'] = 2048
    if name == 'opt':
        stated['ffn_dim'] = full['ffn_dim']
    assert translate(stated) == translate(full)


@every_family
def test_there_and_back(name):
    config = config_lib.TransformerConfig(**translate(small(name)))
    again = families.FAMILIES[name].to_hf(config)
    assert config_lib.TransformerConfig(**translate(again)) == config


@every_family
@pytest.mark.parametrize('kind', ['causal', 'score'])
def test_every_parameter_has_a_rule_and_divides(name, kind):
    config = config_lib.TransformerConfig(**translate(small(name)))
    model = transformer.CausalLM(config)
    if kind == 'score':
        model = score.ScoreModel(config_lib.ScoreConfig(config))
    abstract = hf.abstract_params(model)
    mesh = sharding.make_mesh(2, 2, 2)
    placed = sharding.param_shardings(mesh, transformer.RULES, abstract)
    ranks = jax.tree.map(lambda leaf: leaf.ndim, abstract)
    assert jax.tree.map(lambda found: len(found.spec), placed) == ranks


@pytest.mark.parametrize(
    ('name', 'fields', 'complaint'),
    [
        ('phi', {'qk_layernorm': True}, 'qk_layernorm=True is not supported'),
        ('phi', {'tie_word_embeddings': True}, 'tie_word_embeddings=True is not'),
        ('gptj', {'tie_word_embeddings': True}, 'tie_word_embeddings=True is not'),
        ('gpt2', {'scale_attn_weights': False}, 'scale_attn_weights=False is not'),
        (
            'opt',
            {'layer_norm_elementwise_affine': False},
            'layer_norm_elementwise_affine=False is not supported; only True is.',
        ),
        (
            'bloom',
            {'apply_residual_connection_post_layernorm': True},
            'apply_residual_connection_post_layernorm=True is not supported',
        ),
        (
            'gemma2',
            {'use_bidirectional_attention': True},
            'use_bidirectional_attention=true is not supported',
        ),
        ('qwen2', {'layer_types': ['linear']}, r"layer_types has \['linear'\]; known"),
    ],
)
def test_what_the_decoder_does_not_have_is_refused(name, fields, complaint):
    config = small(name) | {'use_sliding_window': True, 'sliding_window': 4} | fields
    with pytest.raises(ValueError, match=complaint):
        translate(config)


def test_windows_of_another_number_of_layers_are_refused():
    fields = translate(small('gpt_neo')) | {'windowed': (True,)}
    with pytest.raises(ValueError, match='windowed has 1 entries for num_layers=2'):
        config_lib.TransformerConfig(**fields)


def scaled(**fields):
    config = small('llama') | {'rope_parameters': None, 'rope_scaling': fields}
    found = families.llama.from_hf(config)
    return found['rope_scaling']


def test_scales_of_yarn_become_its_factor():
    found = scaled(type='yarn', factor=40.0, mscale=1.0, mscale_all_dim=0.5)
    # (0.1·ln 40 + 1) / (0.05·ln 40 + 1)
    assert found.attention_factor == pytest.approx(1.3688879 / 1.1844440)
    assert found.original_positions == 2048  # of the model, where none is stated


def test_a_scaling_without_a_factor_is_refused():
    with pytest.raises(ValueError, match='has no factor'):
        scaled(type='linear', factor=None)
