"""Tests of means over the tokens that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.losses import masked

X = jnp.array([[1.0, 2.0, 6.0], [4.0, 8.0, 0.0]])
MASK = jnp.array([[True, True, True], [True, False, False]])


def test_rows_have_the_same_weight():
    # ((1 + 2 + 6) / 3 + 4 / 1) / 2 = (3 + 4) / 2
    assert masked.masked_mean(X, MASK) == 3.5


def test_per_token_every_token_has_the_same_weight():
    # (1 + 2 + 6 + 4) / 4
    assert masked.masked_mean(X, MASK, per_token=True) == 3.25


@pytest.mark.parametrize('per_token', [False, True])
def test_what_is_masked_changes_nothing(per_token):
    wild = jnp.where(MASK, X, jnp.nan)

    def loss(x):
        return masked.masked_mean(x, MASK, per_token=per_token)

    assert loss(wild) == loss(X)
    np.testing.assert_array_equal(jax.grad(loss)(wild), jax.grad(loss)(X))


@pytest.mark.parametrize('per_token', [False, True])
def test_without_any_token_the_mean_is_zero(per_token):
    nothing = jnp.zeros_like(MASK)
    assert masked.masked_mean(X, nothing, per_token=per_token) == 0


def test_an_empty_row_counts_as_zero_among_the_rows():
    mask = MASK.at[1].set(False)
    # (3 + 0) / 2
    assert masked.masked_mean(X, mask) == 1.5


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        masked.masked_mean(X, MASK[:, :2])
