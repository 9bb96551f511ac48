"""Our LLaMA beside that of `transformers` on PyTorch, random weights, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import sampling
from tests import tiny
from tests.parity import side_by_side

SETTINGS = {
    'plain': {},
    'grouped heads': {'num_key_value_heads': 2},
    'one kv head, odd head width': {'num_key_value_heads': 1, 'head_dim': 12},
    'biases': {'attention_bias': True, 'mlp_bias': True},
    'tied': {'tie_word_embeddings': True},
    'rope and norm': {'rope_theta': 500.0, 'rms_norm_eps': 1e-2},
    'all': {
        'num_key_value_heads': 2,
        'head_dim': 6,
        'attention_bias': True,
        'mlp_bias': True,
        'tie_word_embeddings': True,
        'rope_theta': 1e6,
        'rms_norm_eps': 1e-5,
    },
}


def torch_llama(seed=0, **settings):
    """A random LLaMA whose biases and norms are random as well."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=side_by_side.VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **settings,
    )
    return side_by_side.shake(transformers.LlamaForCausalLM(config))


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def theirs(request):
    return torch_llama(**request.param)


@pytest.fixture
def ours(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / 'theirs')
    return hf.load_causal_lm(tmp_path / 'theirs')


def test_logits_agree_however_rows_are_padded(theirs, ours):
    tokens, mask = side_by_side.batch()
    expected = side_by_side.torch_logits(theirs, tokens, mask)
    found = side_by_side.jax_logits(*ours, tokens, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)
    assert np.std(expected[mask]) > 0.5


def test_greedy_generation_agrees(theirs, ours):
    tokens, mask = side_by_side.prompts()
    expected = side_by_side.torch_greedy(theirs, tokens, mask, 32)
    np.testing.assert_array_equal(
        side_by_side.jax_greedy(*ours, tokens, mask, 32), expected
    )


def test_our_export_loads_with_identical_logits(theirs, ours, tmp_path):
    model, params = ours
    hf.save_causal_lm(tmp_path / 'ours', model.config, params)
    loaded, info = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / 'ours', output_loading_info=True
    )
    assert not info['missing_keys']
    assert not info['unexpected_keys']
    assert not info['mismatched_keys']
    tokens, mask = side_by_side.batch()
    np.testing.assert_array_equal(
        side_by_side.torch_logits(loaded.eval(), tokens, mask),
        side_by_side.torch_logits(theirs, tokens, mask),
    )


def test_a_bfloat16_export_loads_in_bfloat16(tmp_path):
    torch_llama().to(torch.bfloat16).save_pretrained(tmp_path / 'theirs')
    model, params = hf.load_causal_lm(tmp_path / 'theirs', param_dtype='bfloat16')
    hf.save_causal_lm(tmp_path / 'ours', model.config, params)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'ours')
    expected = torch_llama().to(torch.bfloat16).state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected[name])


def test_our_fresh_model_agrees_once_exported(tmp_path):
    config = config_lib.TransformerConfig(
        vocab_size=side_by_side.VOCAB,
        embed_dim=24,
        num_layers=2,
        num_heads=3,
        num_kv_heads=1,
        head_dim=10,
        mlp_dim=40,
        rope_theta=2_000.0,
        norm_eps=1e-3,
        qkv_bias=True,
        o_bias=True,
    )
    model = transformer.CausalLM(config)
    params = tiny.init(model)
    hf.save_causal_lm(tmp_path, config, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens, mask = side_by_side.batch()
    np.testing.assert_allclose(
        side_by_side.jax_logits(model, params, tokens, mask)[mask],
        side_by_side.torch_logits(theirs, tokens, mask)[mask],
        atol=1e-4,
    )


def test_scores_are_a_linear_head_on_their_backbone(tmp_path):
    config = config_lib.ScoreConfig(
        backbone=config_lib.TransformerConfig(
            vocab_size=side_by_side.VOCAB,
            embed_dim=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            mlp_dim=48,
        ),
        score_dim=2,
    )
    model = score.ScoreModel(config)
    params = tiny.init(model)
    hf.save_score_model(tmp_path, config, params, score.init_normalizer(2))
    # Without its class, transformers reads the decoder; the head is ours to apply.
    decoder = transformers.LlamaModel.from_pretrained(tmp_path).eval()
    tensors = hf.export_names(config.backbone, params)
    tokens, mask = side_by_side.batch()
    with torch.no_grad():
        hidden = decoder(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            position_ids=torch.tensor(np.maximum(np.cumsum(mask, axis=1) - 1, 0)),
        ).last_hidden_state
        expected = torch.nn.functional.linear(
            hidden,
            torch.tensor(tensors['score_head.weight']),
            torch.tensor(tensors['score_head.bias']),
        ).numpy()
    scores = np.asarray(jax.jit(model.apply)({'params': params}, tokens, mask))
    np.testing.assert_allclose(scores[mask], expected[mask], atol=1e-4)
    last = np.array([11, 11, 6, 9])  # of the four rows of `batch`
    np.testing.assert_allclose(
        score.end_scores(jnp.asarray(scores), jnp.asarray(mask)),
        expected[np.arange(4), last],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    'settings',
    [
        {'temperature': 0.7},
        {'top_k': 5},
        {'top_p': 0.8},
        {'top_p': 0.3},
        {'repetition_penalty': 1.4},
        {'repetition_penalty': 0.8},
        {'temperature': 1.6, 'top_k': 20, 'top_p': 0.6, 'repetition_penalty': 1.2},
    ],
    ids=str,
)
def test_filters_agree(settings):
    random = np.random.default_rng(2)
    logits = 3 * random.standard_normal((5, side_by_side.VOCAB)).astype('float32')
    before = random.integers(0, side_by_side.VOCAB, (5, 9))
    processors = transformers.LogitsProcessorList()
    for name, processor in (  # the order of `generate`
        ('repetition_penalty', transformers.RepetitionPenaltyLogitsProcessor),
        ('temperature', transformers.TemperatureLogitsWarper),
        ('top_k', transformers.TopKLogitsWarper),
        ('top_p', transformers.TopPLogitsWarper),
    ):
        if name in settings:
            processors.append(processor(settings[name]))
    expected = processors(torch.tensor(before), torch.tensor(logits)).numpy()
    seen = np.zeros((5, side_by_side.VOCAB), bool)
    np.put_along_axis(seen, before, True, axis=1)
    found = sampling.filter_logits(
        jnp.asarray(logits), sampling.Sampler(**settings), jnp.asarray(seen)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_greedy_generation_with_a_repetition_penalty_agrees(tmp_path):
    theirs = torch_llama()
    theirs.save_pretrained(tmp_path)
    tokens, mask = side_by_side.prompts()
    tokens, mask = tokens[2:], mask[2:]  # unpadded: theirs counts the padding, too
    with torch.no_grad():
        out = theirs.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            max_new_tokens=32,
            repetition_penalty=1.3,
            pad_token_id=0,
        ).numpy()
    model, params = hf.load_causal_lm(tmp_path)
    found = side_by_side.jax_greedy(
        model, params, tokens, mask, 32, repetition_penalty=1.3
    )
    np.testing.assert_array_equal(found, out[:, 6:])
    assert np.any(found != side_by_side.torch_greedy(theirs, tokens, mask, 32))


def test_a_trained_model_that_we_export_decodes_alike(shared_data, tmp_path):
    model, params = hf.load_causal_lm(shared_data / 'stories260K' / 'hf')
    hf.save_causal_lm(tmp_path, model.config, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens, mask = np.array([[1]]), np.ones((1, 1), bool)  # BOS
    np.testing.assert_array_equal(
        side_by_side.jax_greedy(model, params, tokens, mask, 200),
        side_by_side.torch_greedy(theirs, tokens, mask, 200),
    )
