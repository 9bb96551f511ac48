import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.models import score
from beaver_jax.rollout import experience
from beaver_jax.rollout import packs as packs_lib
from tests import tiny

ROWS, PROMPT, RESPONSE = 4, 3, 4


@pytest.fixture(scope='module')
def samples():
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT + RESPONSE), 1, 13)
    starts, lengths = jnp.array([0, 1, 2, 0]), jnp.array([4, 1, 3, 2])
    response_mask = jnp.arange(RESPONSE)[None] < lengths[:, None]
    prompt_mask = jnp.arange(PROMPT)[None] >= starts[:, None]
    return types.Samples(
        tokens=tokens,
        mask=jnp.concatenate([prompt_mask, response_mask], axis=1),
        response_mask=response_mask,
        logps=jnp.zeros((ROWS, RESPONSE)),
        truncated=jnp.array([True, False, False, False]),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """Models with their parameters."""

    reference: tuple[Any, Any]
    reward: tuple[Any, Any]
    cost: tuple[Any, Any]
    reward_critic: tuple[Any, Any]
    cost_critic: tuple[Any, Any]


@pytest.fixture(scope='module')
def models():
    return Models(
        reference=tiny.causal_lm(seed=1),
        reward=tiny.score_model(seed=2),
        cost=tiny.score_model(seed=3, score_type='cost', score_dim=2),
        reward_critic=tiny.score_model(seed=4, score_type='critic'),
        cost_critic=tiny.score_model(seed=5, score_type='critic'),
    )


def end_scores(model):
    def fn(params, tokens, mask, packs=None):
        return scoring.end_scores(
            model, params, score.init_normalizer(1), tokens, mask, packs=packs
        )

    return fn


def scorers_of(models):
    """Two constraints, of one cost model's two outputs, and a third cost by program."""
    scorers = experience.Scorers(
        reference=models.reference[0],
        reward=end_scores(models.reward[0]),
        costs={
            'model': end_scores(models.cost[0]),
            'length': lambda params, tokens, mask, packs=None: (
                params * jnp.sum(mask, axis=1, keepdims=True).astype(jnp.float32)
            ),
        },
        constraints={
            'harm': experience.Cost('model', 1),
            'rude': experience.Cost('model'),
            'long': experience.Cost('length'),
        },
        reward_critic=models.reward_critic[0],
        cost_critics={'harm': models.cost_critic[0]},
    )
    params = {
        'reference': models.reference[1],
        'reward': models.reward[1],
        'costs': {'model': models.cost[1], 'length': jnp.float32(0.5)},
        'reward_critic': models.reward_critic[1],
        'cost_critics': {'harm': models.cost_critic[1]},
    }
    return scorers, params


@functools.cache
def experience_of(models, chunks):
    scorers, _ = scorers_of(models)
    return jax.jit(
        functools.partial(
            experience.score_samples, scorers=scorers, temperature=0.7, chunks=chunks
        )
    )


def test_samples_are_scored_by_every_model(models, samples):
    _, params = scorers_of(models)
    found = experience_of(models, 1)(params, samples)

    @jax.jit
    def expected(params):
        tokens, mask = samples.tokens, samples.mask
        logps, _ = scoring.response_logps(
            models.reference[0],
            params['reference'],
            tokens,
            mask,
            response_length=RESPONSE,
            temperature=0.7,
        )
        return (
            jnp.where(samples.response_mask, logps, 0),
            end_scores(models.reward[0])(params['reward'], tokens, mask)[:, 0],
            end_scores(models.cost[0])(params['costs']['model'], tokens, mask),
            *(
                scoring.response_values(
                    model, critic, tokens, mask, response_length=RESPONSE
                )
                for model, critic in (
                    (models.reward_critic[0], params['reward_critic']),
                    (models.cost_critic[0], params['cost_critics']['harm']),
                )
            ),
        )

    ref_logps, reward, costs, reward_values, cost_values = expected(params)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    close(found.ref_logps, ref_logps)
    close(found.reward, reward)
    close(found.costs['harm'], costs[:, 1])
    close(found.costs['rude'], costs[:, 0])
    # Half of the tokens: 3 + 4, 2 + 1, 1 + 3 and 3 + 2 of them.
    close(found.costs['long'], [3.5, 1.5, 2.0, 2.5])
    close(found.reward_values, reward_values)
    assert found.reward_values.shape == (ROWS, RESPONSE + 1)
    assert found.cost_values.keys() == {'harm'}
    close(found.cost_values['harm'], cost_values)
    np.testing.assert_array_equal(found.samples.tokens, samples.tokens)


def test_nothing_behind_the_end_has_a_log_probability(models, samples):
    found = experience_of(models, 1)(scorers_of(models)[1], samples)
    behind = ~np.asarray(samples.response_mask)
    assert np.all(found.ref_logps[behind] == 0)
    assert np.all(found.ref_logps[~behind] < 0)


def test_scoring_in_parts_changes_nothing(models, samples):
    _, params = scorers_of(models)
    whole = experience_of(models, 1)(params, samples)
    parts = experience_of(models, 2)(params, samples)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)


@pytest.mark.parametrize('chunks', [1, 2])
def test_what_reads_packs_says_the_same(models, samples, chunks):
    _, params = scorers_of(models)
    plain = experience_of(models, chunks)(params, samples)
    orders = np.arange(ROWS)[None]
    packed = packs_lib.pack(samples, orders, devices=1, parts=chunks, sizes=4)
    packed = jax.tree.map(lambda x: x[0], packed)
    # 7 tokens, 3, 4 and 5 in packs of 7: three of them, or two and two.
    assert packed.source.shape == (3 if chunks == 1 else 4, PROMPT + RESPONSE)
    found = experience_of(models, chunks)(params, samples.replace(packs=packed))
    ended = jnp.arange(RESPONSE + 1)[None] > jnp.sum(samples.response_mask, 1)[:, None]

    def to_the_end(experience):
        """Values beyond a row's end are of padding, which packs do not have."""
        values = (experience.reward_values, experience.cost_values)
        return jax.tree.map(lambda x: jnp.where(ended, 0, x), values)

    for a, b in zip(
        jax.tree.leaves(to_the_end(found)),
        jax.tree.leaves(to_the_end(plain)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for name in ('ref_logps', 'reward', 'costs', 'samples'):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-5),
            getattr(found, name),
            getattr(plain, name),
        )


@pytest.mark.parametrize('chunks', [1, 2])
def test_a_scorer_with_a_view_reads_that(models, samples, chunks):
    _, params = scorers_of(models)
    # Row i has i + 2 tokens of its own, other ones than the samples have.
    view = types.Sequences(
        tokens=jnp.flip(samples.tokens[:, :6], axis=1),
        mask=jnp.arange(6)[None] < jnp.arange(2, 6)[:, None],
    )
    views = {'reward': view, 'costs.length': view}
    plain = experience_of(models, chunks)(params, samples)
    found = experience_of(models, chunks)(params, samples, views=views)
    expected = end_scores(models.reward[0])(params['reward'], view.tokens, view.mask)
    np.testing.assert_allclose(found.reward, expected[:, 0], atol=1e-5)
    # Half of its 2, 3, 4 and 5 tokens.
    np.testing.assert_allclose(found.costs['long'], [1.0, 1.5, 2.0, 2.5])
    # All else reads the samples.
    np.testing.assert_array_equal(found.costs['harm'], plain.costs['harm'])
    np.testing.assert_array_equal(found.reward_values, plain.reward_values)
    np.testing.assert_array_equal(found.ref_logps, plain.ref_logps)
