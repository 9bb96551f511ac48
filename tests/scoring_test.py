import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import scoring
from beaver_jax.models import score
from tests import tiny

LENGTH, RESPONSE = 7, 3


def batch():
    tokens = jax.random.randint(jax.random.key(0), (2, LENGTH), 0, 13)
    mask = jnp.ones((2, LENGTH), bool).at[0, :2].set(False).at[1, 6:].set(False)
    return tokens, mask


@functools.partial(jax.jit, static_argnames='model')
def run(model, params, tokens, mask):
    return model.apply({'params': params}, tokens, mask)


sequence_logps = jax.jit(scoring.sequence_logps, static_argnums=0)


def response(model, params, tokens, mask, **settings):
    return jax.jit(
        functools.partial(
            scoring.response_logps, model, response_length=RESPONSE, **settings
        )
    )(params, tokens, mask)


def test_log_probabilities_are_the_softmax_at_the_position_before():
    model, params = tiny.causal_lm()
    tokens, mask = batch()
    logits, _ = run(model, params, tokens, mask)
    logps = sequence_logps(model, params, tokens, mask)
    assert logps.shape == (2, LENGTH - 1)
    for row in range(2):
        for place in range(LENGTH - 1):
            probs = np.exp(logits[row, place]) / np.sum(np.exp(logits[row, place]))
            expected = np.log(probs[tokens[row, place + 1]])
            assert float(logps[row, place]) == pytest.approx(float(expected), abs=1e-5)


def test_a_response_is_the_end_of_the_sequence():
    model, params = tiny.causal_lm()
    tokens, mask = batch()
    logps, _ = response(model, params, tokens, mask)
    whole = sequence_logps(model, params, tokens, mask)
    np.testing.assert_allclose(logps, whole[:, -RESPONSE:], atol=1e-5)


def test_the_temperature_divides_the_logits():
    model, params = tiny.causal_lm()
    tokens, mask = batch()
    logits, _ = run(model, params, tokens, mask)
    logits = np.asarray(logits[:, LENGTH - RESPONSE - 1 : -1], np.float64) / 0.5
    probs = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    chosen = np.take_along_axis(
        probs, np.asarray(tokens)[:, -RESPONSE:, None], axis=-1
    )[..., 0]
    logps, entropy = response(model, params, tokens, mask, temperature=0.5)
    np.testing.assert_allclose(logps, np.log(chosen), atol=1e-5)
    np.testing.assert_allclose(
        entropy, -np.sum(probs * np.log(probs), axis=-1), atol=1e-5
    )


def test_padding_changes_no_log_probability():
    model, params = tiny.causal_lm()
    tokens, mask = batch()
    other = jnp.where(mask, tokens, 11)
    for a, b in zip(
        response(model, params, tokens, mask),
        response(model, params, other, mask),
        strict=True,
    ):
        counted = mask[:, -RESPONSE:] & mask[:, -RESPONSE - 1 : -1]
        np.testing.assert_allclose(a[counted], b[counted], atol=1e-6)


def test_values_stand_before_each_token_and_at_the_end():
    model, params = tiny.score_model(score_type='critic')
    tokens, mask = batch()
    values = jax.jit(
        functools.partial(scoring.response_values, model, response_length=RESPONSE)
    )(params, tokens, mask)
    scores = run(model, params, tokens, mask)[..., 0]
    # The first response token stands at 4; its value is the score at 3.
    assert values.shape == (2, RESPONSE + 1)
    np.testing.assert_allclose(values, scores[:, 3:], atol=1e-5)


@pytest.mark.parametrize('score_type', ['reward', 'cost', 'critic'])
def test_end_scores_are_normalized_by_the_models_type(score_type):
    model, params = tiny.score_model(score_type=score_type, score_dim=2)
    tokens, mask = batch()
    normalizer = score.Normalizer(
        jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0]), jnp.int32(3)
    )
    scores = run(model, params, tokens, mask)
    ends = np.stack([scores[0, 6], scores[1, 5]])  # the last real tokens
    raw, normalized = (
        jax.jit(functools.partial(scoring.end_scores, model, normalize=normalize))(
            params, normalizer, tokens, mask
        )
        for normalize in (False, True)
    )
    np.testing.assert_allclose(raw, ends, atol=1e-5)
    expected = {  # means 1 and 2, deviations 2 and 3
        'reward': (ends - [1, 2]) / [2, 3],
        'cost': ends / [2, 3],
        'critic': ends,
    }[score_type]
    np.testing.assert_allclose(normalized, expected, atol=1e-5)
