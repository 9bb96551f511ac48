import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.rollout import sampling

NO = -np.inf


def rows(*values):
    return jnp.array(values, jnp.float32)


def test_penalty_by_hand():
    logits = rows([2.0, -2.0, 3.0, -3.0])
    seen = jnp.array([[True, True, False, False]])
    # A token that occurred becomes less likely: 2/4 = 0.5, -2·4 = -8.
    np.testing.assert_array_equal(
        sampling.penalize(logits, seen, penalty=4.0), [[0.5, -8.0, 3.0, -3.0]]
    )


@pytest.mark.parametrize(
    ('top_k', 'expected'),
    [
        (1, [[NO, 4, NO, NO], [3, NO, NO, NO]]),
        (2, [[NO, 4, 2, NO], [3, 2, NO, 2]]),  # the second of row 2 is a tie
        (4, [[1, 4, 2, 0], [3, 2, 1, 2]]),
        (9, [[1, 4, 2, 0], [3, 2, 1, 2]]),  # more than there are
    ],
)
def test_top_k_by_hand(top_k, expected):
    logits = rows([1, 4, 2, 0], [3, 2, 1, 2])
    np.testing.assert_array_equal(sampling.keep_top_k(logits, top_k=top_k), expected)


@pytest.mark.parametrize(
    ('top_p', 'kept'),
    # Probabilities 0.5, 0.3, 0.15, 0.05 in another order. Those before a token have a
    # mass of 0, 0.5, 0.8, 0.95; it stays if that is below top_p.
    [
        (0.01, [0.5]),
        (0.49, [0.5]),
        (0.51, [0.5, 0.3]),
        (0.79, [0.5, 0.3]),
        (0.81, [0.5, 0.3, 0.15]),
        (0.96, [0.5, 0.3, 0.15, 0.05]),
    ],
)
def test_top_p_by_hand(top_p, kept):
    probs = np.array([0.15, 0.5, 0.05, 0.3])
    out = sampling.keep_top_p(rows(np.log(probs)), top_p=top_p)[0]
    np.testing.assert_array_equal(np.isfinite(out), np.isin(probs, kept))
    np.testing.assert_array_equal(
        out[np.isfinite(out)], rows(np.log(probs))[0][np.isfinite(out)]
    )


def test_filters_act_in_hugging_faces_order():
    logits = rows([4.0, 3.0, 2.0, -1.0])
    seen = jnp.array([[True, False, False, True]])
    sampler = sampling.Sampler(
        temperature=0.5, top_k=3, top_p=0.9, repetition_penalty=2.0
    )
    # Penalty: 4/2 = 2, -1·2 = -2. Temperature: 4, 6, 4, -4. The three likeliest: 4, 6,
    # 4 have probabilities e⁴ : e⁶ : e⁴, that is 0.1065, 0.7870, 0.1065. Before the ties
    # there is a mass of 0.787, before the second of them 0.8935 < 0.9, so both stay.
    out = sampling.filter_logits(logits, sampler, seen)
    np.testing.assert_allclose(out, [[4.0, 6.0, 4.0, NO]], rtol=1e-6)


def test_the_default_sampler_changes_nothing():
    logits = rows([1.5, -0.5, 2.5])
    np.testing.assert_array_equal(
        sampling.filter_logits(logits, sampling.Sampler()), logits
    )


def test_temperature_zero_takes_the_likeliest():
    logits = rows([1.0, 3.0, 2.0], [5.0, 3.0, 2.0])
    sampler = sampling.Sampler(temperature=0.0)
    filtered = sampling.filter_logits(logits, sampler)
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(sampling.sample(keys, filtered, sampler), [1, 0])


@pytest.mark.parametrize('places', [(0, 1, 2, 3), (7, 130, 131, 300)])
def test_samples_have_the_distribution_of_the_logits(places):
    # Of one block of tokens, and of three.
    probs = np.zeros(places[-1] + 1)
    probs[list(places)] = [0.6, 0.3, 0.1, 0.0]
    count = 4000
    keys = jax.random.split(jax.random.key(0), count)
    logits = jnp.broadcast_to(rows(np.log(probs + 1e-30)), (count, len(probs)))
    drawn = sampling.sample(keys, logits, sampling.Sampler())
    shares = np.bincount(drawn, minlength=len(probs)) / count
    # The standard error is at most √(0.6·0.4/4000) = 0.008.
    np.testing.assert_allclose(shares, probs, atol=0.03)
    assert np.all(shares[probs == 0] == 0)


def test_many_tokens_are_drawn_evenly():
    # 1,000 tokens of probability 1/1000 each, 40 draws of each expected:
    # Σ(found - 40)²/40 has a mean of 999 and a deviation of √(2·999) = 45.
    keys = jax.random.split(jax.random.key(2), 40_000)
    logits = jnp.zeros((40_000, 1000))
    drawn = jax.jit(sampling.sample, static_argnums=2)(keys, logits, sampling.Sampler())
    found = np.bincount(drawn, minlength=1000)
    assert abs(np.sum((found - 40) ** 2 / 40) - 999) < 4 * 45
    assert found.shape == (1000,)


def test_what_was_filtered_out_is_never_drawn():
    # All but three of 5,000 tokens, which are in one block.
    logits = jnp.full((3000, 5000), -jnp.inf).at[:, 4990:4993].set(0.0)
    keys = jax.random.split(jax.random.key(3), 3000)
    drawn = jax.jit(sampling.sample, static_argnums=2)(keys, logits, sampling.Sampler())
    assert set(np.unique(drawn)) == {4990, 4991, 4992}


def test_a_row_is_drawn_with_its_own_key():
    keys = jax.random.split(jax.random.key(0), 3)
    logits = jax.random.normal(jax.random.key(1), (3, 50))
    together = sampling.sample(keys, logits, sampling.Sampler())
    alone = [
        int(sampling.sample(keys[i, None], logits[i, None], sampling.Sampler())[0])
        for i in range(3)
    ]
    np.testing.assert_array_equal(together, alone)
    assert len(set(alone)) > 1


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'temperature': -1.0}, r'temperature=-1\.0; must not be negative'),
        ({'temperature': float('nan')}, 'temperature=nan'),
        ({'top_k': -1}, 'top_k=-1; must not be negative'),
        ({'top_p': 0.0}, r'top_p=0\.0; must be in \(0, 1\]'),
        ({'top_p': 1.5}, r'top_p=1\.5; must be in \(0, 1\]'),
        ({'repetition_penalty': 0.0}, r'repetition_penalty=0\.0; must be above 0'),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sampling.Sampler(**changes)


def by_row(*samplers):
    return sampling.ByRow.of(samplers, [False] * len(samplers), 0)


def test_each_row_is_filtered_as_by_its_own_sampler():
    logits = 3 * jax.random.normal(jax.random.key(1), (6, 40))
    seen = jax.random.bernoulli(jax.random.key(2), 0.3, (6, 40))
    samplers = (
        sampling.Sampler(),
        sampling.Sampler(0.7, top_k=9, top_p=0.6, repetition_penalty=1.3),
        sampling.Sampler(1.5, top_p=0.9),
        sampling.Sampler(0.5, top_k=99),
        sampling.Sampler(0.9, repetition_penalty=0.5),
        sampling.Sampler(0.3, top_k=1),
    )
    filter_rows = jax.jit(sampling.filter_by_row)
    found = filter_rows(logits, by_row(*samplers), seen, jnp.ones(6, bool))
    for i, sampler in enumerate(samplers):
        rows = slice(i, i + 1)
        expected = sampling.filter_logits(logits[rows], sampler, seen[rows])
        np.testing.assert_allclose(found[rows], expected, rtol=1e-6)
        # Bit for bit what the row is beside others, and beside none that needs more.
        kept = filter_rows(
            logits, by_row(*[sampler] * 6), seen, jnp.zeros(6, bool).at[i].set(True)
        )
        np.testing.assert_array_equal(found[i], kept[i])


def test_ties_stay_in_the_filters_of_rows():
    # The three likeliest of 3, 2, 2, 2, 1 are four. Their probabilities are
    # e : 1 : 1 : 1 over e + 3 = 5.718, that is 0.475 and 0.175 each; a mass of 0.5 is
    # first reached by a tie, and with it come those that are as likely.
    logits = rows([3.0, 2.0, 2.0, 2.0, 1.0], [3.0, 2.0, 2.0, 2.0, 1.0])
    samplers = by_row(sampling.Sampler(top_k=3), sampling.Sampler(top_k=3, top_p=0.5))
    found = sampling.filter_by_row(
        logits, samplers, jnp.zeros((2, 5), bool), jnp.ones(2, bool)
    )
    np.testing.assert_array_equal(found, [[3.0, 2.0, 2.0, 2.0, NO]] * 2)


def test_each_row_is_drawn_at_its_own_temperature():
    keys = jax.random.split(jax.random.key(0), 3)
    logits = jax.random.normal(jax.random.key(2), (3, 50))
    samplers = by_row(sampling.Sampler(), sampling.Sampler(0.0), sampling.Sampler())
    found = sampling.sample_by_row(keys, logits, samplers)
    drawn = sampling.sample(keys, logits, sampling.Sampler())
    assert found.tolist() == [drawn[0], jnp.argmax(logits[1]), drawn[2]]
    assert drawn[1] != found[1]


def test_alternatives_are_found_where_a_living_row_shows_them():
    # Probabilities 0.2, 0.5, 0.3.
    logits = rows(np.log([0.2, 0.5, 0.3]))
    sampler = sampling.ByRow.of([sampling.Sampler()], [True], 2)
    tokens, logps = sampling.alternatives(logits, sampler, jnp.array([True]))
    assert tokens.tolist() == [[1, 2]]
    np.testing.assert_allclose(logps, rows(np.log([0.5, 0.3])), rtol=1e-6)
    tokens, logps = sampling.alternatives(logits, sampler, jnp.array([False]))
    assert not np.any(tokens) and not np.any(logps)
