"""Sums over bits: by hand, the same on every mesh, other for every changed bit."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from beaver_jax import checksums
from beaver_jax import sharding


def test_the_sum_by_hand():
    # 7·1 + 0·3 + 2·5 = 17; -1 is 2³² - 1: (2³² - 1)·1 + 1·3 = 2 modulo 2³².
    found = checksums.of({'a': jnp.array([7, 0, 2], 'int32'), 'b': jnp.array([-1, 1])})
    assert found == {'a': 17, 'b': 2}
    # Elements of an axis count on: (1·1 + 1·3 + 0·5) + (1·7 + 0·9 + 1·11) = 22.
    assert checksums.of({'m': jnp.array([[1, 1, 0], [1, 0, 1]], bool)}) == {'m': 22}
    # 1 in bfloat16 is 0x3f80 = 16256, in float32 0x3f800000 = 1065353216.
    assert checksums.of({'x': jnp.ones((), 'bfloat16')}) == {'x': 16256}
    assert checksums.of({'x': jnp.ones(())}) == {'x': 1065353216}
    assert checksums.of({}) == {}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8', 'uint32'])
def test_every_bit_counts(dtype):
    values = np.zeros((2, 3), jnp.dtype(dtype))
    before = checksums.of({'x': values})
    raw = values.view(np.uint8).reshape(-1)
    for at in range(len(raw)):
        raw[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r'saved: x$'):
            checksums.verify(before, {'x': values})
        raw[at] ^= 1 << at % 8
    checksums.verify(before, {'x': values})


def test_some_of_the_arrays_that_changed_are_named():
    tree = {name: jnp.arange(3) for name in 'abcde'}
    sums = checksums.of(tree)
    checksums.verify({}, tree)  # of a checkpoint that has no sums
    checksums.verify(sums | {'gone': 1}, tree)
    with pytest.raises(ValueError, match=r'saved: b, c, d …$'):
        checksums.verify(sums, tree | {name: jnp.arange(1, 4) for name in 'bcde'})


def test_sums_are_the_same_on_every_mesh():
    values = jax.random.normal(jax.random.key(0), (8, 4))
    mesh = sharding.make_mesh(2, 2, 2)
    specs = (PartitionSpec(), PartitionSpec('fsdp', 'tensor'), PartitionSpec('data'))
    found = [
        checksums.of({'x': jax.device_put(values, NamedSharding(mesh, spec))})
        for spec in specs
    ]
    assert found == [checksums.of({'x': values})] * 3
