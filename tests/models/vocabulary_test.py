"""Vocabularies that the mesh does not divide, and those that grow."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import hf
from beaver_jax.models import transformer
from beaver_jax.models import weights
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from tests import tiny

# Vocabulary 13; 16 is the next multiple of 4.
UNTIED = {'num_layers': 1, 'head_bias': True, 'head_dim': 4, 'family': 'phi'}
UNTIED |= {'norm': 'layer', 'residual': 'parallel_shared_norm', 'gated': False}
UNTIED |= {'qkv_bias': True, 'o_bias': True, 'mlp_bias': True, 'activation': 'gelu'}
# GPT-2's output projection is its embedding.
GPT2 = tiny.GPT2 | {'num_layers': 1, 'max_positions': 32}
KINDS = {'untied': UNTIED, 'gpt2': GPT2}


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    """A directory, and the model and parameters that it was written from."""
    model, params = tiny.causal_lm(**KINDS[request.param])
    hf.save_causal_lm(tmp_path, model.config, params)
    return tmp_path, model, params


def batch(rows=4):
    tokens = jax.random.randint(jax.random.key(0), (rows, 6), 0, 13)
    return tokens, jnp.arange(6)[None] >= jnp.arange(rows)[:, None] % 3


def logits(model, params):
    return jax.jit(lambda params, *x: model.apply({'params': params}, *x)[0])(
        params, *batch()
    )


def sampled(model, params, temperature):
    tokens, mask = batch()
    fn = functools.partial(
        generate.generate,
        model=model,
        response_length=8,
        sampler=sampling.Sampler(temperature=temperature),
        eos_ids=(2,),
        pad_id=2,
    )
    prompts = types.PromptBatch(tokens=tokens, mask=mask, row=jnp.arange(4))
    return jax.jit(fn)(params, prompts, jax.random.key(1))


def test_padding_is_empty_and_has_no_logits(saved):
    directory, model, params = saved
    padded, found = hf.load_causal_lm(directory, vocab_multiple=8)
    assert (padded.config.vocab_size, padded.config.vocab_rows) == (13, 16)
    embedding = np.asarray(found['embed']['embedding'])
    assert embedding.shape == (16, 16)
    np.testing.assert_array_equal(embedding[:13], params['embed']['embedding'])
    assert not embedding[13:].any()
    if 'lm_head' in params:
        assert found['lm_head']['kernel'].shape == (16, 16)
        assert not found['lm_head']['kernel'][:, 13:].any()
        assert found['lm_head']['bias'].shape == (16,)
    plain = logits(model, params)
    assert plain.shape[-1] == 13
    np.testing.assert_allclose(logits(padded, found), plain, atol=1e-6)


def test_padding_changes_no_greedy_decoding(saved):
    directory, model, params = saved
    padded, found = hf.load_causal_lm(directory, vocab_multiple=8)
    # What padding holds does not matter, however likely it would be.
    found['embed']['embedding'] = found['embed']['embedding'].at[13:].set(100.0)
    one, other = sampled(model, params, 0.0), sampled(padded, found, 0.0)
    assert int(np.max(other.tokens)) < 13
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.logps, other.logps, atol=1e-5)


def test_an_odd_vocabulary_on_a_mesh(saved):
    directory, model, params = saved
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    place = functools.partial(sharding.param_shardings, mesh, transformer.RULES)
    with pytest.raises(ValueError, match='13 is not a multiple of 2'):
        hf.load_causal_lm(directory, place=place)
    padded, found = hf.load_causal_lm(directory, place=place, vocab_multiple=2)
    assert found['embed']['embedding'].sharding.spec[0] == 'tensor'
    tokens, mask = batch()

    def logps(model, params):
        fn = functools.partial(scoring.response_logps, model, response_length=4)
        return jax.jit(fn)(params, tokens, mask)

    with jax.set_mesh(mesh):
        meshed, spread = logps(padded, found), sampled(padded, found, 1.0)
    for here, there in zip(logps(model, params), meshed, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5)
    np.testing.assert_array_equal(sampled(model, params, 1.0).tokens, spread.tokens)


def test_padding_is_not_exported(saved, tmp_path):
    directory, _, _ = saved
    padded, found = hf.load_causal_lm(directory, vocab_multiple=8)
    hf.save_causal_lm(tmp_path / 'again', padded.config, found)
    one, other = (
        safetensors_numpy.load_file(path / weights.WEIGHTS)
        for path in (directory, tmp_path / 'again')
    )
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name])
    assert json.loads((tmp_path / 'again' / 'config.json').read_text()) == json.loads(
        (directory / 'config.json').read_text()
    )


def test_new_tokens_are_the_mean_of_the_old(saved, tmp_path):
    directory, model, params = saved
    wide, found = hf.load_causal_lm(directory, vocab_size=15, vocab_multiple=8)
    old = np.asarray(params['embed']['embedding'])
    embedding = np.asarray(found['embed']['embedding'])
    np.testing.assert_array_equal(embedding[:13], old)
    for row in (13, 14):
        np.testing.assert_allclose(embedding[row], old.mean(axis=0), atol=1e-6)
    assert not embedding[15].any()
    # The old tokens' logits are as they were, the new ones' their mean.
    before, after = logits(model, params), logits(wide, found)
    np.testing.assert_allclose(after[..., :13], before, atol=1e-5)
    mean = before.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(after[..., 13:], np.repeat(mean, 2, axis=-1), atol=1e-5)
    hf.save_causal_lm(tmp_path / 'wide', wide.config, found)
    again, _ = hf.load_causal_lm(tmp_path / 'wide')
    assert again.config == dataclasses.replace(wide.config, vocab_multiple=1)


def test_new_tokens_on_a_mesh(saved):
    # Shards that have old, new and no tokens.
    directory, _, _ = saved
    mesh = sharding.make_mesh(data=1, tensor=8)
    place = functools.partial(sharding.param_shardings, mesh, transformer.RULES)
    changes = {'vocab_size': 15, 'vocab_multiple': 8}
    with pytest.raises(ValueError, match='not a multiple of 8'):
        # Of 24 MLP rows and 16 columns each device has 3 and 2; of the rows of
        # the vocabulary it has 2 only where they are padded.
        hf.load_causal_lm(directory, place=place, vocab_size=15)
    _, here = hf.load_causal_lm(directory, **changes)
    _, there = hf.load_causal_lm(directory, place=place, **changes)
    jax.tree.map(np.testing.assert_array_equal, here, there)


def test_a_score_model_has_no_more_tokens_than_before(tmp_path):
    model, params = tiny.score_model(backbone={'num_layers': 1})
    state = hf.score.init_normalizer(1)
    hf.save_score_model(tmp_path / 'one', model.config, params, state)
    padded, found, _ = hf.load_score_model(tmp_path / 'one', vocab_multiple=8)
    assert found['backbone']['embed']['embedding'].shape == (16, 16)
    hf.save_score_model(tmp_path / 'two', padded.config, found, state)
    one, other = (
        safetensors_numpy.load_file(tmp_path / name / weights.WEIGHTS)
        for name in ('one', 'two')
    )
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name])


@pytest.mark.parametrize('kind', KINDS)
def test_fresh_weights_do_not_depend_on_padding(kind):
    config = tiny.config(**KINDS[kind])
    wide = dataclasses.replace(config, vocab_multiple=8)
    tokens, mask = batch()

    def init(config):
        model = transformer.CausalLM(config)
        return jax.jit(model.init)(jax.random.key(0), tokens, mask)['params']

    one, other = (hf.export_names(c, init(c)) for c in (config, wide))
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name])
