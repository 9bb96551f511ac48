import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.models import attention


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def everything(rows, queries, keys):
    return jnp.ones((rows, queries, keys), bool)


def test_mask_is_causal_skips_padding_and_leaves_no_query_without_a_key():
    key_mask = jnp.array([[0, 1, 1, 0]], bool)
    expected = [  # rows are queries, columns are keys
        [1, 0, 0, 0],  # padding before any token sees itself
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],  # padding after the end sees the real tokens
    ]
    found = attention.attention_mask(key_mask, attention.ages(0, 4, 4))
    np.testing.assert_array_equal(found[0], expected)
    # Two queries that begin at place 2 are the last two rows.
    found = attention.attention_mask(key_mask, attention.ages(2, 2, 4))
    np.testing.assert_array_equal(found[0], expected[2:])


def test_after_the_last_place_comes_the_first():
    # A query at place 1 of 4: its own key is 0 old, place 0's 1, place 3's 2, place 2's
    # 3; all were written before it.
    age = attention.ages(1, 1, 4)
    np.testing.assert_array_equal(age, [[1, 0, 3, 2]])
    seen = attention.attention_mask(jnp.array([[1, 1, 0, 1]], bool), age)
    np.testing.assert_array_equal(seen[0], [[1, 1, 0, 1]])
    # Of these the last two tokens stand at places 1 and 0, the last three also at 3.
    near = attention.near_mask(seen, age, 2)
    np.testing.assert_array_equal(near[0], [[1, 1, 0, 0]])
    near = attention.near_mask(seen, age, 3)
    np.testing.assert_array_equal(near[0], [[1, 1, 0, 1]])


def test_attention_by_hand():
    # One query, two keys, head dim 4, so logits are q·k/2: q·k = 2·ln 3 and 0 gives
    # logits ln 3 and 0, weights 3/4 and 1/4, and 0.75·8 + 0.25·4 = 7.
    q = jnp.zeros((1, 1, 1, 4)).at[0, 0, 0, 0].set(1.0)
    k = jnp.zeros((1, 1, 2, 4)).at[0, 0, 0, 0].set(2 * np.log(3.0))
    v = jnp.array([8.0, 4.0]).reshape(1, 1, 2, 1) * jnp.ones((1, 1, 2, 4))
    out = attention.attend(q, k, v, everything(1, 1, 2))
    np.testing.assert_allclose(out, np.full((1, 1, 1, 4), 7.0), rtol=1e-6)


def test_attention_agrees_with_jax_in_values_and_gradients():
    q, k, v = random(0, 2, 6, 5, 8), random(1, 2, 3, 7, 8), random(2, 2, 3, 7, 8)
    mask = jax.random.bernoulli(jax.random.key(3), 0.6, (2, 5, 7)).at[..., 0].set(True)

    def ours(q, k, v):
        return jnp.sum(jnp.sin(attention.attend(q, k, v, mask)))

    def theirs(q, k, v):  # time before heads; query heads 2h and 2h + 1 share kv head h
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        return jnp.sum(jnp.sin(out))

    found, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(q, k, v) for f in (ours, theirs)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def causal(length):
    """Who sees whom: a row of real tokens, one padded on both sides."""
    places = jnp.arange(length)
    real = jnp.stack([places >= 0, (places >= 5) & (places < length - 7)])
    return attention.attention_mask(real, attention.ages(0, length, length))


@pytest.mark.parametrize('length', [64, 70])  # 70 in blocks of 18
def test_blocks_of_queries_change_neither_values_nor_gradients(monkeypatch, length):
    q, k, v = random(0, 2, 4, length, 8), *(random(i, 2, 2, length, 8) for i in (1, 2))
    mask, bias = causal(length), random(3, 2, 4, 1, length)

    def loss(q, k, v, bias):
        out = attention.attend(q, k, v, mask, softcap=9.0, bias=bias)
        return jnp.sum(jnp.sin(out))

    def found():
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(q, k, v, bias)

    monkeypatch.setattr(attention, 'SHORTEST', 16)
    blocks = found()
    monkeypatch.setattr(attention, 'BLOCKS', 1)
    whole = found()
    np.testing.assert_allclose(blocks[0], whole[0], rtol=1e-5)
    for a, b in zip(blocks[1], whole[1], strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


@pytest.mark.parametrize(
    ('length', 'sizes'),
    [
        (1, [1]),
        (127, [127]),
        (129, [65, 64]),
        (200, [67, 67, 66]),
        (258, [65] * 3 + [63]),
    ],
)
def test_no_block_is_a_remnant(monkeypatch, length, sizes):
    attended = []

    def attend(q, k, v, *rest):
        attended.append((q.shape[2], k.shape[2]))
        return q

    monkeypatch.setattr(attention, '_attend_xla', attend)
    x = jnp.zeros((1, 1, length, 4))
    assert attention.attend(x, x, x, causal(length)[:1]).shape == x.shape
    ends = np.cumsum(sizes).tolist()
    assert attended == list(zip(sizes, ends, strict=True))


def test_blocks_of_queries_leave_out_what_they_do_not_see():
    # Of four blocks the first meets a quarter of the keys, the last all of them:
    # (1 + 2 + 3 + 4) / 16 = 5/8 of all products, 4·B·N·T·S·A of them. Less than a
    # tenth more is for the softmax of so wide heads.
    length, width = 256, 1024
    x = jnp.zeros((1, 1, length, width))
    mask = jnp.tril(everything(1, length, length))
    program = jax.jit(attention.attend).lower(x, x, x, mask).compile()
    whole = 4 * length * length * width
    assert 5 / 8 < program.cost_analysis()['flops'] / whole < 5 / 8 * 1.1


def test_hidden_keys_change_nothing_whatever_they_hold():
    q, k, v = (random(i, 1, 2, 3, 4) for i in range(3))
    mask = everything(1, 3, 3).at[:, :, 1].set(False)
    expected = attention.attend(q, k, v, mask)
    wild = attention.attend(q, k.at[:, :, 1].set(1e4), v.at[:, :, 1].set(-1e4), mask)
    np.testing.assert_array_equal(expected, wild)


def test_large_logits_do_not_overflow():
    q = jnp.full((1, 1, 1, 4), 1e3)
    k = jnp.stack([jnp.full((1, 1, 4), 1e3), jnp.full((1, 1, 4), -1e3)], axis=2)
    v = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1) * jnp.ones((1, 1, 2, 4))
    # Logits ±2·10⁶: the first key takes all.
    np.testing.assert_array_equal(
        attention.attend(q, k, v, everything(1, 1, 2)), np.ones((1, 1, 1, 4))
    )
