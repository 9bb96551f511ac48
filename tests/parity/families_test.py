"""Every family beside `transformers` on PyTorch: random models, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from beaver_jax.models import families
from beaver_jax.models import hf
from beaver_jax.models import score
from tests.parity import side_by_side

LLAMA = {
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'max_position_embeddings': 64,
}
GPT2 = {'n_embd': 32, 'n_layer': 3, 'n_head': 4, 'n_positions': 64}
OPT = {
    'hidden_size': 32,
    'ffn_dim': 48,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'max_position_embeddings': 64,
    'word_embed_proj_dim': 32,
}
GEMMA = LLAMA | {'num_key_value_heads': 2, 'head_dim': 12}
GPT_NEO = {
    'hidden_size': 32,
    'num_layers': 3,
    'num_heads': 4,
    'max_position_embeddings': 64,
}
LAYERS = ['sliding_attention', 'full_attention', 'sliding_attention']
# Of each family a plain model, and some with its odd settings.
SETTINGS = {
    'llama': {
        'grouped heads': LLAMA | {'num_key_value_heads': 2},
        'llama3 scaling': LLAMA
        | {
            'rope_parameters': {
                'rope_type': 'llama3',
                'rope_theta': 500.0,
                'factor': 8.0,
                'low_freq_factor': 1.0,
                'high_freq_factor': 4.0,
                'original_max_position_embeddings': 16,
            }
        },
        'linear scaling': LLAMA
        | {'rope_scaling': {'rope_type': 'linear', 'factor': 2.5}},
        'yarn': LLAMA
        | {
            'rope_parameters': {
                'rope_type': 'yarn',
                'rope_theta': 1e3,
                'factor': 4.0,
                'original_max_position_embeddings': 16,
            }
        },
    },
    'mistral': {
        'no window': LLAMA | {'num_key_value_heads': 2, 'sliding_window': None},
        'window': LLAMA | {'num_key_value_heads': 2, 'sliding_window': 5},
    },
    'qwen2': {
        'plain': LLAMA | {'num_key_value_heads': 2},
        'tied': LLAMA | {'num_key_value_heads': 2, 'tie_word_embeddings': True},
        'window in the upper layers': LLAMA
        | {'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 2}
        | {'num_key_value_heads': 4},
    },
    'qwen3': {
        'plain': LLAMA | {'num_key_value_heads': 2, 'head_dim': 12},
        'tied, biases': LLAMA
        | {'num_key_value_heads': 2, 'head_dim': 8, 'attention_bias': True}
        | {'tie_word_embeddings': True},
    },
    'gemma': {
        'plain': GEMMA,
        'one kv head, untied': GEMMA
        | {'num_key_value_heads': 1, 'tie_word_embeddings': False},
    },
    'gemma2': {
        'plain': GEMMA | {'query_pre_attn_scalar': 12, 'sliding_window': 4},
        'caps that bite': GEMMA
        | {'query_pre_attn_scalar': 7, 'sliding_window': 3, 'layer_types': LAYERS}
        | {'attn_logit_softcapping': 0.5, 'final_logit_softcapping': 2.0},
    },
    'phi': {
        'plain': LLAMA,
        'grouped heads, a quarter rotated': LLAMA
        | {'num_key_value_heads': 2, 'hidden_act': 'relu'}
        | {'rope_parameters': {'rope_theta': 100.0, 'partial_rotary_factor': 0.25}},
    },
    'opt': {
        'plain': OPT,
        'norms last, projected, as 350M': OPT
        | {'do_layer_norm_before': False, 'word_embed_proj_dim': 20},
        'no biases': OPT | {'enable_bias': False, 'activation_function': 'gelu'},
    },
    'gpt2': {
        'plain': GPT2,
        'untied, exact gelu': GPT2
        | {'tie_word_embeddings': False, 'activation_function': 'gelu', 'n_inner': 40},
    },
    'gpt_neo': {
        'local': GPT_NEO
        | {'attention_types': [[['global', 'local', 'local'], 1]], 'window_size': 4},
        'global': GPT_NEO | {'attention_types': [[['global'], 3]]},
    },
    'gpt_neox': {
        'plain': LLAMA,
        'sequential, half rotated': LLAMA
        | {'use_parallel_residual': False, 'hidden_act': 'gelu_new'}
        | {'rope_parameters': {'rope_theta': 300.0, 'partial_rotary_factor': 0.5}},
        'no biases': LLAMA | {'attention_bias': False},
    },
    'gptj': {
        'plain': GPT2 | {'rotary_dim': 4},
        'whole heads rotated': GPT2 | {'rotary_dim': 8, 'n_inner': 40},
    },
    'bloom': {
        'plain': {'hidden_size': 32, 'n_layer': 3, 'n_head': 4},
        'three heads, untied': {
            'hidden_size': 24,
            'n_layer': 2,
            'n_head': 3,
            'tie_word_embeddings': False,
        },
    },
}
CASES = [
    pytest.param(family, settings, id=f'{family}: {name}')
    for family, variants in SETTINGS.items()
    for name, settings in variants.items()
]
every_model = pytest.mark.parametrize(('family', 'settings'), CASES)


def torch_config(family, settings, **more):
    std = 'init_std' if family == 'opt' else 'initializer_range'
    return transformers.AutoConfig.for_model(
        family,
        **{'vocab_size': side_by_side.VOCAB, std: 0.2, 'pad_token_id': 0},
        **{'bos_token_id': None, 'eos_token_id': None},
        **settings,
        **more,
    )


def torch_model(family, settings, auto=transformers.AutoModelForCausalLM, **more):
    torch.manual_seed(0)
    config = torch_config(family, settings, **more)
    model = auto.from_config(config, attn_implementation='eager')
    return side_by_side.shake(model)


def load_in_torch(directory, auto=transformers.AutoModelForCausalLM):
    model, info = auto.from_pretrained(
        directory, output_loading_info=True, attn_implementation='eager'
    )
    problems = ('missing_keys', 'unexpected_keys', 'mismatched_keys')
    return model.eval(), {name: info[name] for name in problems if info[name]}


def test_every_family_has_a_case():
    assert SETTINGS.keys() == families.FAMILIES.keys()


@every_model
def test_logits_tokens_and_export_agree(family, settings, tmp_path):
    theirs = torch_model(family, settings)
    theirs.save_pretrained(tmp_path / 'theirs')
    model, params = hf.load_causal_lm(tmp_path / 'theirs')
    assert model.config.family == family

    tokens, mask = side_by_side.batch()
    expected = side_by_side.torch_logits(theirs, tokens, mask)
    found = side_by_side.jax_logits(model, params, tokens, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)
    assert np.std(expected[mask]) > 0.1

    prompts = side_by_side.prompts()
    np.testing.assert_array_equal(
        side_by_side.jax_greedy(model, params, *prompts, 32),
        side_by_side.torch_greedy(theirs, *prompts, 32),
    )

    hf.save_causal_lm(tmp_path / 'ours', model.config, params)
    again, problems = load_in_torch(tmp_path / 'ours')
    assert not problems
    np.testing.assert_array_equal(
        side_by_side.torch_logits(again, tokens, mask), expected
    )
    reloaded, _ = hf.load_causal_lm(tmp_path / 'ours')
    assert reloaded.config == model.config


@every_model
def test_a_bare_decoder_and_a_head_make_a_score_model(family, settings, tmp_path):
    # The score model of safe-rlhf: the decoder under its prefix, and a linear head.
    decoder = torch_model(family, settings, transformers.AutoModel)
    decoder.save_pretrained(tmp_path / 'decoder')
    backbone, params = hf.load_backbone(tmp_path / 'decoder')
    random = np.random.default_rng(3)
    head = {
        'kernel': random.standard_normal((backbone.hidden_width, 2), np.float32),
        'bias': random.standard_normal(2, np.float32),
    }
    config = hf.config_lib.ScoreConfig(backbone=backbone, score_dim=2)
    model = score.ScoreModel(config)
    params = {'backbone': params, 'score_head': head}
    tokens, mask = side_by_side.batch()
    with torch.no_grad():
        inputs = side_by_side.torch_inputs(decoder, tokens, mask)
        hidden = decoder(**inputs).last_hidden_state.numpy()
    expected = hidden @ head['kernel'] + head['bias']
    found = np.asarray(jax.jit(model.apply)({'params': params}, tokens, mask))
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)

    normalizer = score.init_normalizer(2)
    normalizer = normalizer.replace(mean=jnp.array([1.0, 2.0]), count=jnp.int32(7))
    hf.save_score_model(tmp_path / 'ours', config, params, normalizer)
    again, loaded, statistics = hf.load_score_model(tmp_path / 'ours')
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    jax.tree.map(np.testing.assert_array_equal, statistics, normalizer)
    # Without its class, transformers reads the decoder of it.
    reread, problems = load_in_torch(tmp_path / 'ours', transformers.AutoModel)
    assert 'missing_keys' not in problems
    with torch.no_grad():
        np.testing.assert_array_equal(
            reread(**inputs).last_hidden_state.numpy(), hidden
        )


@pytest.mark.parametrize('family', sorted(SETTINGS))
def test_a_classifier_with_one_label_is_a_reward_model(family, tmp_path):
    settings = next(iter(SETTINGS[family].values()))
    theirs = torch_model(
        family,
        settings,
        transformers.AutoModelForSequenceClassification,
        num_labels=1,
    )
    theirs.save_pretrained(tmp_path)
    model, params, _ = hf.load_score_model(tmp_path)
    assert (model.config.score_dim, model.config.score_bias) == (1, False)
    # Padded on the right, as their pooling takes the last token that is no padding.
    tokens, mask = (x[[0, 2]] for x in side_by_side.batch())
    expected = side_by_side.torch_logits(theirs, tokens, mask)
    scores = jax.jit(model.apply)({'params': params}, tokens, mask)
    np.testing.assert_allclose(
        score.end_scores(scores, jnp.asarray(mask)), expected, atol=1e-4
    )
