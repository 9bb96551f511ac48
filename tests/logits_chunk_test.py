"""Scoring of tokens by parts: the same numbers, without the logits of all tokens."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.losses import causal_lm
from beaver_jax.models import lora
from beaver_jax.models import transformer
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from beaver_jax.steps import sft
from tests import tiny

ROWS, LENGTH, RESPONSE = 4, 8, 5
ONE_LAYER = {'num_layers': 1}
HEADS = {
    'tied and capped': {'tie_embeddings': True, 'logit_softcap': 5.0},
    'biased and padded': {'head_bias': True, 'vocab_multiple': 8},
}


def batch(rows=ROWS, vocab=13):
    tokens = jax.random.randint(jax.random.key(0), (rows, LENGTH), 0, vocab)
    return tokens, jnp.ones((rows, LENGTH), bool).at[0, :2].set(False)


def loss_of(model, params):
    """Uses log-probabilities and entropy, each with another weight at every token."""
    logps, entropy = scoring.response_logps(
        model, params, *batch(), response_length=RESPONSE, temperature=0.7
    )
    weights = jnp.arange(logps.size, dtype=float).reshape(logps.shape)
    return jnp.sum(weights * logps) + jnp.sum(jnp.cos(weights) * entropy)


def check_alike(loss, whole, parts, params, rtol=1e-5):
    (expected, expected_grads), (found, grads) = (
        jax.jit(jax.value_and_grad(functools.partial(loss, model)))(params)
        for model in (whole, parts)
    )
    assert float(found) == pytest.approx(float(expected), rel=rtol)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected_grads))
    assert largest > 1
    for a, b in zip(*map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)


# 20 tokens: 3 parts of 7 (one of them is padding), or 5 of 4.
@pytest.mark.parametrize('chunk', [8, 4])
@pytest.mark.parametrize('head', HEADS.values(), ids=HEADS)
def test_parts_change_neither_values_nor_gradients(head, chunk):
    whole, params = tiny.causal_lm(**head, **ONE_LAYER, logits_chunk=0)
    parts, _ = tiny.causal_lm(**head, **ONE_LAYER, logits_chunk=chunk)
    check_alike(loss_of, whole, parts, params)


def test_adapters_of_the_head_learn_the_same():
    config = lora.LoraConfig(rank=2, targets='lm_head|layers/attention/q')
    whole, base = tiny.causal_lm(**ONE_LAYER, logits_chunk=0)
    parts, _ = tiny.causal_lm(**ONE_LAYER, logits_chunk=6)
    learning = lora.init(config, base, jax.random.key(2))
    learning = jax.tree.map(lambda x: x + 0.1, learning)
    check_alike(
        loss_of,
        lora.Adapted(whole, config, base),
        lora.Adapted(parts, config, base),
        learning,
    )


def test_packed_rows_of_sft_learn_and_count_the_same():
    tokens, mask = batch()
    segments = jnp.where(jnp.arange(LENGTH) < 4, 1, 2)[None].repeat(ROWS, axis=0)
    rows = types.SftBatch(tokens, mask, mask.at[:, :3].set(False), segments)
    whole, params = tiny.causal_lm(**ONE_LAYER, logits_chunk=0)
    parts, _ = tiny.causal_lm(**ONE_LAYER, logits_chunk=6)

    def loss(model, params):
        return 100 * sft.sft_loss(params, rows, model=model)[0]

    check_alike(loss, whole, parts, params)
    sums = [
        jax.jit(functools.partial(sft.sft_eval, model=model))(params, rows)
        for model in (whole, parts)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), *sums)


def test_a_large_vocabulary_is_taken_by_parts_and_a_small_one_whole(monkeypatch):
    monkeypatch.setattr(scoring, 'CHUNK', 3)
    monkeypatch.setattr(scoring, 'CHUNK_NUMBERS', 130)

    def seen(vocab, **settings):
        model, params = tiny.causal_lm(vocab_size=vocab, **ONE_LAYER, **settings)
        tokens, sizes = batch()[0], []

        def measure(logits, tokens):
            sizes.append(logits.shape[1])
            return causal_lm.token_logps(logits, tokens)

        hidden = jax.ShapeDtypeStruct((ROWS, LENGTH, 16), jnp.float32)
        fn = functools.partial(scoring.of_tokens, measure, model, params, tokens=tokens)
        jax.eval_shape(lambda hidden: fn(hidden=hidden), hidden)
        return set(sizes)

    # 32 tokens. 130 / 13 = 10 a part, at most: four of 8. 130 / 65 = 2, but 3 at least:
    # eleven of 3. 130 / 4 = 32: all.
    assert seen(13) == {8}
    assert seen(65) == {3}
    assert seen(4) == {32}
    assert seen(65, logits_chunk=0) == {32}
    assert seen(65, logits_chunk=16) == {16}


def test_the_actors_gradient_needs_less_memory_by_all_logits():
    rows, vocab = 16, 4096
    tokens, mask = batch(rows, vocab)
    response = mask[:, -RESPONSE:]
    samples = types.Samples(
        tokens, mask, response, jnp.zeros(response.shape), jnp.zeros(rows, bool)
    )

    def needed(chunk):
        model = transformer.CausalLM(
            tiny.config(vocab_size=vocab, **ONE_LAYER, logits_chunk=chunk)
        )
        params = tiny.init(model)
        gradients = functools.partial(
            ppo_lag.actor_gradients, model=model, config=ppo_config.PPOConfig()
        )
        lowered = jax.jit(gradients).lower(params, (samples, samples.logps, None))
        compiled = lowered.compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # 80 tokens of 4096 logits in float32: 1.3 MB, of which 8 tokens' are left.
    logits = rows * RESPONSE * vocab * 4
    assert needed(0) - needed(8) > logits


def test_devices_exchange_the_projection_once_not_for_every_part():
    mesh = sharding.make_mesh(2, 2, 2)
    config = ONE_LAYER | {'vocab_size': 64, 'head_dim': 8}
    whole, params = tiny.causal_lm(**config, logits_chunk=0)
    parts, _ = tiny.causal_lm(**config, logits_chunk=2)
    tokens, mask = batch(8, 64)

    def loss(model, params, tokens, mask):
        logps, entropy = scoring.response_logps(
            model, params, tokens, mask, response_length=RESPONSE
        )
        return jnp.sum(jnp.sin(logps)) + jnp.sum(entropy)

    expected = jax.jit(jax.grad(functools.partial(loss, whole)))(params, tokens, mask)
    with jax.set_mesh(mesh):
        shardings = sharding.param_shardings(mesh, transformer.RULES, params)
        placed = jax.device_put(params, shardings)
        rows = sharding.put_batch(mesh, (tokens, mask))
        compiled = (
            jax.jit(
                jax.grad(functools.partial(loss, parts)),
                out_shardings=shardings,
            )
            .lower(placed, *rows)
            .compile()
        )
        found = compiled(placed, *rows)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4), found, expected
    )
    # The projection, 16 × 64, is cut in two by `tensor`; each part of the tokens, 2,
    # has logits of 2 × 32 on a device. In a loop nothing is sent but what the tensor
    # axis sums of a part: numbers a token, and gradients of its hidden states, 2 × 16.
    sent = {'loop': [], 'once': []}
    where = 'once'
    for line in compiled.as_text().splitlines():
        if re.match(r'(ENTRY |%)', line):
            where = 'once' if line.startswith('ENTRY') else 'loop'
        if re.search(r' (all-gather|all-reduce|all-to-all|collective-\w+)\(', line):
            shape = re.search(r'= \(?\w+\[([\d,]*)\]', line)[1]
            sent[where].append(int(np.prod([int(n) for n in shape.split(',') if n])))
    assert max(sent['loop']) == 2 * 16
    assert sent['once'].count(16 * 32) >= 2  # the projection, and its gradient
