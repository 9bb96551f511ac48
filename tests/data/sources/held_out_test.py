"""Which records are held out."""

import pytest

from beaver_jax.data import sources
from beaver_jax.data import store


def _prompts(size):
    return [sources.Prompt((f'Question {i}?',), f'x:{i}') for i in range(size)]


def test_held_out_keeps_a_prompt_on_one_side():
    train, test = sources.held_out(store.collect(_prompts(500) * 2), 0.2, seed=0)
    assert len(train) + len(test) == 1000
    assert not set(train) & set(test)
    # Binomial with n = 500 and p = 0.2: mean 100, deviation 9; times two rows each.
    assert 2 * 73 < len(test) < 2 * 127


def test_held_out_does_not_depend_on_the_other_records():
    some, many = (store.collect(_prompts(count)) for count in (100, 300))
    _, test = sources.held_out(some, 0.3, seed=1)
    _, more = sources.held_out(many.take(range(300)[::-1]), 0.3, seed=1)
    assert set(test) == set(more) & set(some)
    assert set(test) != set(sources.held_out(some, 0.3, seed=2)[1])


def test_held_out_bounds():
    records = store.collect(_prompts(20))
    assert sources.held_out(records, 0, seed=0) == (records, [])
    for fraction in (-0.1, 1, float('nan')):
        with pytest.raises(ValueError, match=f'test_share={fraction} is not a share'):
            sources.held_out(records, fraction, seed=0)
    with pytest.raises(sources.DataError, match='20 to train on and 0 held out'):
        sources.held_out(records, 1e-9, seed=0)
