import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax.models import config as config_lib
from beaver_jax.models import positions
from tests import tiny


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def rotary(head_dim, **changes):
    return tiny.config(head_dim=head_dim, **changes)


def test_positions_count_the_real_tokens_before():
    mask = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]], bool)
    # Real tokens count 0, 1, 2 wherever padding stands; padding after a row's end
    # counts on, and any other padding counts from the last real token before it.
    expected = [[0, 1, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 1, 2, 2]]
    np.testing.assert_array_equal(positions.positions_from_mask(mask), expected)


def test_rotation_by_hand():
    angles = positions.rotations(jnp.array([[3]]), rotary(4, rope_theta=100.0))
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    # Pairs (1, 3) and (2, 4); angles 3·100^0 = 3 and 3·100^(-1/2) = 0.3.
    # cos 3 = -0.9899925, sin 3 = 0.1411200; cos 0.3 = 0.9553365, sin 0.3 = 0.2955202.
    # 1·cos 3 - 3·sin 3 = -1.4133525       2·cos 0.3 - 4·sin 0.3 = 0.7285922
    # 3·cos 3 + 1·sin 3 = -2.8288575       4·cos 0.3 + 2·sin 0.3 = 4.4123864
    np.testing.assert_allclose(
        positions.rotate(x, angles).ravel(),
        [-1.4133525, 0.7285922, -2.8288575, 4.4123864],
        rtol=1e-6,
    )


def test_rotated_products_depend_on_the_distance_only():
    q, k = random(0, 1, 1, 1, 8), random(1, 1, 1, 1, 8)

    def product(query, key):
        turned = [
            positions.rotate(
                x,
                positions.rotations(jnp.array([[at]]), rotary(8)),
            )
            for x, at in ((q, query), (k, key))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    assert product(9, 4) == pytest.approx(product(5, 0), abs=1e-5)
    assert product(9, 4) != pytest.approx(product(4, 9), abs=1e-2)


def test_angles_are_float32_and_rotation_keeps_the_type():
    angles = positions.rotations(jnp.array([[1]]), rotary(4))
    assert angles[0].dtype == jnp.float32
    x = random(0, 1, 1, 1, 4).astype(jnp.bfloat16)
    assert positions.rotate(x, angles).dtype == jnp.bfloat16


def test_interleaved_pairs_stand_side_by_side():
    angles = positions.rotations(jnp.array([[3]]), rotary(4, rope_theta=100.0))
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    # Pairs (1, 2) by 3 and (3, 4) by 0.3:
    # 1·cos 3 - 2·sin 3 = -1.2722325       2·cos 3 + 1·sin 3 = -1.8388650
    # 3·cos 0.3 - 4·sin 0.3 = 1.6839287    4·cos 0.3 + 3·sin 0.3 = 4.7079066
    np.testing.assert_allclose(
        positions.rotate(x, angles, interleaved=True).ravel(),
        [-1.2722325, -1.8388650, 1.6839287, 4.7079066],
        rtol=1e-6,
    )


def test_dimensions_beyond_the_rotated_ones_stay():
    config = rotary(6, rotary_dim=4, rope_theta=100.0)
    x = random(0, 1, 2, 3, 6)
    angles = positions.rotations(jnp.array([[3, 4, 5]]), config)
    turned = positions.rotate(x, angles)
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    part = positions.rotate(
        x[..., :4],
        positions.rotations(jnp.array([[3, 4, 5]]), rotary(4, rope_theta=100.0)),
    )
    np.testing.assert_array_equal(turned[..., :4], part)


def scaled(**fields):
    scaling = config_lib.RopeScaling(**fields)
    return positions.frequencies(rotary(8, rope_theta=10_000.0, rope_scaling=scaling))


def test_linear_scaling_divides_all_frequencies():
    found, factor = scaled(kind='linear', factor=4.0)
    # 10000^(-i/4) / 4
    np.testing.assert_allclose(found, [0.25, 0.025, 0.0025, 0.00025], rtol=1e-6)
    assert factor == 1.0


def test_llama3_scaling_divides_slow_frequencies():
    found, factor = scaled(
        kind='llama3',
        factor=8.0,
        original_positions=round(200 * math.pi),  # 628
        low_freq_factor=0.5,
        high_freq_factor=20.0,
    )
    # Turns over 628 positions are 628·f/2π = 99.95·f: 99.95, 9.995, 0.9995, 0.09995.
    # Shares kept, (turns - 0.5)/19.5 within [0, 1]: 1, 0.48692, 0.025615, 0.
    # f·(share + (1 - share)/8): 1, 0.1·0.551057, 0.01·0.147413, 0.001/8.
    np.testing.assert_allclose(found, [1.0, 0.0551057, 0.00147413, 0.000125], rtol=1e-5)
    assert factor == 1.0


def test_yarn_ramps_between_dimensions():
    found, factor = scaled(kind='yarn', factor=4.0, original_positions=4096)
    # Dimension of r turns: 8·ln(4096/(2π·r))/(2·ln 10000), 1.308 for 32 and 2.814 for
    # 1; so the ramp runs from 1 to 3: shares kept 1, 1, 0.5, 0.
    # 0.01·(0.5 + 0.5/4) = 0.00625
    np.testing.assert_allclose(found, [1.0, 0.1, 0.00625, 0.00025], rtol=1e-6)
    assert factor == pytest.approx(1.1386294)  # 0.1·ln 4 + 1
    _, given = scaled(
        kind='yarn', factor=4.0, original_positions=4096, attention_factor=0.7
    )
    assert given == 0.7
    cos, _ = positions.rotations(
        jnp.array([[0]]),
        rotary(
            8,
            rope_scaling=config_lib.RopeScaling(
                kind='yarn', factor=4.0, original_positions=4096
            ),
        ),
    )
    np.testing.assert_allclose(cos, np.full((1, 1, 1, 4), 1.1386294), rtol=1e-6)


def test_slopes_of_alibi():
    # 8 heads: 2^-1, 2^-2, …; 6: those of 4 heads, 2^-2, 2^-4, …, and then every other
    # one of 8, 2^-1 and 2^-3.
    np.testing.assert_array_equal(
        positions.alibi_slopes(8), [2.0**-i for i in range(1, 9)]
    )
    np.testing.assert_array_equal(
        positions.alibi_slopes(6), [2.0**-i for i in (2, 4, 6, 8, 1, 3)]
    )


def test_alibi_is_the_slope_times_the_position_of_the_key():
    bias = positions.alibi(jnp.array([[-1, 0, 1, 2]]), 2)
    # Slopes 2^-4 and 2^-8, positions 0, 1, 2 of the real tokens.
    assert bias.shape == (1, 2, 1, 4)
    np.testing.assert_array_equal(bias[0, 0, 0, 1:], [0, 1 / 16, 2 / 16])
    np.testing.assert_array_equal(bias[0, 1, 0, 1:], [0, 1 / 256, 2 / 256])
