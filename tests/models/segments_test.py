"""Segments of a row are sequences of their own, in every kind of decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.models import attention
from beaver_jax.models import positions
from tests import tiny
from tests.models import decoders

VARIANTS = decoders.VARIANTS | {
    'gpt-2': tiny.GPT2 | {'max_positions': 8},
    'gpt-neox': tiny.GPT_NEOX,
}
LENGTHS = (5, 3, 4)
every_variant = pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)


@functools.partial(jax.jit, static_argnames='model')
def logits_of(model, params, tokens, mask, segments=None):
    return model.apply({'params': params}, tokens, mask, segments=segments)[0]


def packed():
    """Two rows of three segments and two pads: tokens, mask, segments."""
    numbers = np.repeat([1, 2, 3, 0], [*LENGTHS, 2])
    segments = jnp.asarray(np.stack([numbers, numbers]), jnp.int32)
    return decoders.tokens_of(2, 14), segments > 0, segments


@every_variant
def test_each_segment_has_the_logits_that_it_has_alone(changes):
    model, params = tiny.causal_lm(**changes)
    tokens, mask, segments = packed()
    together = logits_of(model, params, tokens, mask, segments)
    assert np.all(np.isfinite(together))
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        alone = logits_of(model, params, tokens[:, part], mask[:, part])
        np.testing.assert_allclose(together[:, part], alone, atol=1e-5)
        start += length


@every_variant
def test_no_token_is_seen_from_another_segment(changes):
    model, params = tiny.causal_lm(**changes)
    tokens, mask, segments = packed()
    before = logits_of(model, params, tokens, mask, segments)
    for place in (2, 6, 9, 13):  # one of each segment, and a pad
        other = tokens.at[:, place].set((tokens[:, place] + 1) % 13)
        after = logits_of(model, params, other, mask, segments)
        changed = np.any(before != after, axis=-1)
        assert np.all(changed[:, place])
        assert not np.any(changed[np.asarray(segments != segments[0, place])])
        assert not np.any(changed[:, :place])


def test_one_segment_is_a_row_without():
    model, params = tiny.causal_lm()
    tokens, mask, _ = packed()
    one = logits_of(model, params, tokens, mask, mask.astype(jnp.int32))
    none = logits_of(model, params, tokens, mask)
    np.testing.assert_array_equal(one[mask], none[mask])


def test_positions_begin_anew_in_every_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2]])
    np.testing.assert_array_equal(
        positions.positions_from_mask(segments > 0, segments),
        [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]],
    )


def test_the_mask_of_segments_by_hand():
    segments = jnp.array([[1, 1, 2, 2, 0]])
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],  # padding sees itself, for it has to see something
    ]
    found = attention.attention_mask(segments > 0, attention.ages(0, 5, 5), segments)
    np.testing.assert_array_equal(found[0], np.array(expected, bool))


def test_a_cache_has_no_segments():
    model, params = tiny.causal_lm()
    tokens, mask, segments = packed()
    cache = attention.init_cache(model.config, 2, 14)
    with pytest.raises(ValueError, match='there are no segments'):
        model.apply({'params': params}, tokens, mask, cache, segments)
