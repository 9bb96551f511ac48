"""Tests of the losses of reward and cost models."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.losses import preference

VALID = jnp.array([[True]])


def softplus(x):
    """-log σ(-x)."""
    return math.log1p(math.exp(x))


def end(*scores):
    """End scores of one pair, [1, 2, 1]."""
    return jnp.array(scores).reshape(1, 2, 1)


def test_divergent_positions_go_from_the_first_difference_to_the_later_end():
    tokens = jnp.array([[[7, 4, 5, 2, 0, 0], [7, 4, 6, 5, 2, 0]]])
    mask = jnp.array([[[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]], bool)
    # They differ first at position 2; the longer one ends at position 4. That both
    # hold token 5 in places that are not the same changes nothing.
    found = preference.divergent_mask(tokens, mask)
    np.testing.assert_array_equal(found, [[0, 0, 1, 1, 1, 0]])


def test_a_sequence_that_goes_on_differs_even_if_padding_looks_alike():
    # The pad id, 0, is also a real token here: only the masks tell them apart.
    tokens = jnp.array([[[7, 4, 0, 0], [7, 4, 0, 0]]])
    mask = jnp.array([[[1, 1, 0, 0], [1, 1, 1, 0]]], bool)
    found = preference.divergent_mask(tokens, mask)
    np.testing.assert_array_equal(found, [[0, 0, 1, 0]])


def test_equal_sequences_diverge_nowhere():
    tokens = jnp.array([[[7, 4, 2], [7, 4, 2]]])
    assert not preference.divergent_mask(tokens, jnp.ones((1, 2, 3), bool)).any()


def test_reward_loss_of_one_pair():
    # -log σ(2 - 0.5) + 0.1·(2² + 0.5²) / 2 = softplus(-1.5) + 0.2125
    loss = preference.reward_loss(end(2.0, 0.5), VALID, regularization=0.1)
    np.testing.assert_allclose(loss, softplus(-1.5) + 0.2125, rtol=1e-6)


def test_equal_scores_cost_log_2_and_pull_apart():
    loss, gradient = jax.value_and_grad(preference.reward_loss)(end(0.3, 0.3), VALID)
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-6)
    # d/ds -log σ(s_b - s_w) = -σ(0) = -1/2 for the better, +1/2 for the worse.
    np.testing.assert_allclose(gradient.ravel(), [-0.5, 0.5], rtol=1e-6)


def test_token_wise_is_the_mean_over_positions_then_pairs():
    scores = jnp.zeros((2, 2, 3)).at[0, 0].set(jnp.array([1.0, 9.0, 3.0]))
    mask = jnp.array([[True, False, True], [False, True, False]])
    # Pair 0: (softplus(-1) + softplus(-3)) / 2; pair 1: softplus(0) = log 2.
    expected = ((softplus(-1) + softplus(-3)) / 2 + math.log(2)) / 2
    loss = preference.reward_loss(scores, mask)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_cost_loss_of_one_pair():
    # Safer: c = -1, safe (z = +1). Unsafer: c = 0.5, unsafe (z = -1).
    # -log σ(0.5 + 1) - log σ(1) - log σ(0.5) + 0.2·(1 + 0.25) / 2
    expected = softplus(-1.5) + softplus(-1) + softplus(-0.5) + 0.125
    sign = jnp.array([[1, -1]])
    loss = preference.cost_loss(end(-1.0, 0.5), sign, VALID, regularization=0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_wrong_sign_costs_more():
    # Both unsafe: -log σ(0.5 + 1) - log σ(-1) - log σ(0.5)
    expected = softplus(-1.5) + softplus(1) + softplus(-0.5)
    loss = preference.cost_loss(end(-1.0, 0.5), jnp.array([[-1, -1]]), VALID)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_with_unknown_signs_a_cost_is_only_ranked():
    unknown = jnp.zeros((1, 2), jnp.int32)
    loss, gradient = jax.value_and_grad(preference.cost_loss)(
        end(-1.0, 0.5), unknown, VALID
    )
    ranked, mirrored = jax.value_and_grad(preference.reward_loss)(end(0.5, -1.0), VALID)
    assert loss == ranked
    np.testing.assert_array_equal(gradient, mirrored[:, ::-1])


def losses_of(scores, mask, sign):
    yield preference.reward_loss(scores, mask, regularization=0.1)
    yield preference.cost_loss(scores, sign, mask, regularization=0.1)


def test_token_wise_on_one_token_is_sequence_wise():
    key = jax.random.key(0)
    scores, sign = jax.random.normal(key, (4, 2, 5)), jnp.array([[1, -1]] * 4)
    position = jnp.array([0, 2, 4, 1])
    token_wise = losses_of(scores, jnp.arange(5)[None] == position[:, None], sign)
    ends = jnp.take_along_axis(scores, position[:, None, None], axis=2)
    sequence_wise = losses_of(ends, jnp.ones((4, 1), bool), sign)
    for one, other in zip(token_wise, sequence_wise, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize('fill', [100.0, -100.0, jnp.nan])
def test_padding_and_invalid_pairs_change_nothing(fill):
    scores = jax.random.normal(jax.random.key(0), (2, 2, 3))
    mask = jnp.array([[True, True, False], [False, True, True]])
    sign = jnp.array([[1, -1], [1, 1]])
    wider = (
        jnp.full((3, 2, 4), fill)
        .at[:2, :, :3]
        .set(jnp.where(mask[:, None], scores, fill))
    )
    wider_mask = jnp.zeros((3, 4), bool).at[:2, :3].set(mask)
    wider_sign = jnp.array([[1, -1], [1, 1], [-1, 1]])
    padded = losses_of(wider, wider_mask, wider_sign)
    for one, other in zip(losses_of(scores, mask, sign), padded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_accuracies_by_pair_and_by_sequence():
    ends = jnp.array([[2.0, 1.0], [-1.0, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(preference.ranking_accuracy(ends), [1, 0, 0])
    # Safe wants a cost below 0, unsafe one above; 0 itself tells nothing.
    sign = jnp.array([[-1, 1], [1, 1], [1, -1]])
    expected = [[1, 0], [1, 0], [0, 0]]
    np.testing.assert_array_equal(preference.sign_accuracy(ends, sign), expected)
