"""Collectives of compiled programs, against what was asked for."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import pytest

from beaver_jax import sharding
from benchmarks import collectives
from benchmarks import machines
from benchmarks import scaling
from benchmarks import shapes


@pytest.fixture
def mesh():
    return sharding.make_mesh(2, 2, 2)


def found(mesh, function, spec, out, at_most=None):
    """Collectives of a function of each device's part."""
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False
    )
    array = jax.ShapeDtypeStruct(
        (8, 64), jnp.float32, sharding=jax.NamedSharding(mesh, spec)
    )
    text = jax.jit(mapped).lower(array).compile().as_text()
    return collectives.read(text, dict(mesh.shape), at_most)


# A device has 8 rows of 32 numbers, 1,024 bytes, or where all axes cut, 128 each.
@pytest.mark.parametrize(
    ('function', 'kind', 'axes', 'sent'),
    [
        (lambda x: jax.lax.psum(x, 'data'), 'all-reduce', ('data',), 1024),
        (
            lambda x: jax.lax.psum(x, ('data', 'tensor')),
            'all-reduce',
            ('data', 'tensor'),
            1024 * 2 * 3 / 4,
        ),
        (
            lambda x: jax.lax.all_gather(x, ('fsdp', 'data')),
            'all-gather',
            ('data', 'fsdp'),
            3 * 1024,
        ),
        (
            lambda x: jax.lax.psum_scatter(x, 'tensor', tiled=True),
            'reduce-scatter',
            ('tensor',),
            512,
        ),
        (
            lambda x: jax.lax.all_to_all(x, 'data', 0, 1, tiled=True),
            'all-to-all',
            ('data',),
            512,
        ),
        (
            lambda x: jax.lax.ppermute(x, 'fsdp', [(0, 1), (1, 0)]),
            'collective-permute',
            ('fsdp',),
            1024,
        ),
    ],
)
def test_kind_axes_and_bytes(mesh, function, kind, axes, sent):
    spec = PartitionSpec(None, 'tensor')
    (one,) = found(mesh, function, spec, PartitionSpec())
    assert (one.kind, one.axes, one.sent, one.times) == (kind, axes, sent, 1)


def test_a_collective_in_loops_counts_as_often_as_it_runs(mesh):
    def inner(x, _):
        return jax.lax.psum(x, 'tensor') * 0.5, None

    def outer(x, _):
        return jax.lax.scan(inner, x + 1, length=5)[0], None

    def function(x):
        return jax.lax.scan(outer, x, length=3)[0]

    spec = PartitionSpec(None, 'tensor')
    (one,) = found(mesh, function, spec, spec)
    assert (one.times, one.sent) == (15, 15 * 1024)


def test_what_a_loop_asks_before_each_trip_counts(mesh):
    def function(x):
        return jax.lax.while_loop(
            lambda y: jax.lax.psum(jnp.sum(y), 'tensor') < 100, lambda y: y + 1, x
        )

    spec = PartitionSpec(None, 'tensor')
    (one,) = found(mesh, function, spec, spec, at_most=7)
    assert (one.kind, one.times, one.sent) == ('all-reduce', 7, 7 * 4)


def test_a_loop_that_ends_by_what_it_computes_needs_a_bound(mesh):
    def function(x):
        return jax.lax.while_loop(
            lambda y: jnp.sum(y) < 100, lambda y: jax.lax.psum(y, 'tensor'), x
        )

    spec = PartitionSpec(None, 'tensor')
    with pytest.raises(collectives.UnknownTrips):
        found(mesh, function, spec, spec)


TPU_LOOP = """
%body (p: (u32[], bf16[4,8])) -> (u32[], bf16[4,8]) {
  %p = (u32[], bf16[4,8]{1,0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %s = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), source_target_pairs={{0,2},{2,0},{1,3},{3,1}}
  %d = bf16[4,8]{1,0} collective-permute-done(%s)
  ROOT %t = (u32[], bf16[4,8]{1,0}) tuple(%next, %d)
}

%condition (p: (u32[], bf16[4,8])) -> pred[] {
  %p = (u32[], bf16[4,8]{1,0}) parameter(0)
  %end = u32[]{:T(128)} constant(5)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %end), direction=LT
}

%all-reduce-scatter.1 (b: bf16[4,8]) -> bf16[2,8] {
  %b = bf16[4,8]{1,0} parameter(0)
  %m = bf16[4,8]{1,0} all-reduce(%b), replica_groups={{0,2},{1,3}}
  ROOT %k = bf16[2,8]{1,0} dynamic-slice(%m), dynamic_slice_sizes={2,8}
}

ENTRY %main (a: bf16[4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %f = bf16[2,8]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %zero = u32[]{:T(128)} constant(0)
  %g = bf16[8,8]{1,0} all-gather(%a), dimensions={0}, \
replica_groups=mesh['axis_0'=4], device_ids=([2,2]T(1,0)) {'axis_0':(2)2}
  %t = (u32[], bf16[4,8]{1,0}) tuple(%zero, %a)
  %w = (u32[], bf16[4,8]{1,0}) while(%t), condition=%condition, body=%body
  ROOT %r = bf16[4,8]{1,0} get-tuple-element(%w), index=1
}
"""


def test_what_the_tpu_compiler_writes():
    found = collectives.read(TPU_LOOP, {'data': 1, 'fsdp': 2, 'tensor': 2})
    scattered, gathered, permuted = (
        found  # devices 0, 2, 1, 3: the first two are apart by fsdp
    )
    # Half of 64 bytes go to the other one.
    expected = collectives.Collective('reduce-scatter', ('fsdp',), 32.0, 1)
    assert scattered == expected
    # Half of 128 bytes go to the other one.
    expected = collectives.Collective('all-gather', ('fsdp',), 64.0, 1)
    assert gathered == expected
    # 0 to below 5 by twos is 3 times.
    expected = collectives.Collective('collective-permute', ('fsdp',), 3 * 64.0, 3)
    assert permuted == expected


@pytest.mark.parametrize(
    ('mesh', 'axes', 'gigabytes'),
    [
        ((1, 8, 1), ('fsdp',), 450),  # within a host
        ((8, 8, 1), ('fsdp',), 450),
        ((8, 8, 1), ('data',), 50),  # one port each
        ((4, 16, 1), ('fsdp',), 400),  # eight of a host share its ports
        ((4, 8, 4), ('fsdp',), 100),  # two of a host
        ((2, 8, 1), ('data', 'fsdp'), 400),
    ],
)
def test_links_between_gpus(mesh, axes, gigabytes):
    sizes = dict(zip(('data', 'fsdp', 'tensor'), mesh, strict=True))
    assert machines.H100.link(sizes, axes) == gigabytes * 1e9


def test_a_small_case_by_hand(monkeypatch):
    small = shapes.Shape(
        *(64, 32, 6, 4, 4, 64), rows=16, prompt=8, response=8, remat='full'
    )
    monkeypatch.setitem(shapes.PRESETS, 'small', small)
    case = scaling.Case('small', (2, 4, 1), rows=16)
    found = scaling.compiled(case, scaling.mesh_of(case, topology=False))
    phases = found['phases']
    assert set(phases) == set(shapes.PHASES)
    # Three models score: each gathers its layers' kernels, of which a device sends
    # three quarters. Embeddings, norms and heads are small.
    layer = 4 * (4 * 32 * 32 + 3 * 32 * 64)
    gathered = sum(phases['score']['sent']['all-gather'].values())
    assert gathered == pytest.approx(3 * 6 * layer * 3 / 4, rel=0.1)
    # Gradients of what learns are summed over data.
    along = {axes for kinds in phases['update']['sent'].values() for axes in kinds}
    assert any('data' in axes for axes in along)
    # Six models of 6·layer bytes and more; three of them in float32 with two moments.
    least = 3 * 3 * 6 * layer + 3 * 6 * layer
    assert least / 4 < found['held'] < 1.3 * least / 4
    assert found['fits'] == {'TPU v5p': True, 'H100': True}
    parts = found['times']['H100']['update']
    assert all(parts[part] > 0 for part in ('arithmetic', 'links'))


def test_links_and_arithmetic_by_hand():
    case = scaling.CASES['7b-8']
    sent = {'all-gather': {'fsdp': 450e9}, 'all-reduce': {'fsdp': 900e9}}
    mesh = {'data': 1, 'fsdp': 8, 'tensor': 1}
    parts = machines.seconds(machines.H100, case.shape, mesh, 'score', sent)
    assert parts['links'] == pytest.approx(3.0)
    flops = case.shape.flops()['score']
    assert parts['arithmetic'] == pytest.approx(flops / 8 / 989e12)


def test_linear_continuation():
    low = {'arguments': 10.0, 'sent': {'all-gather': {'fsdp': 4.0}}}
    high = {'arguments': 14.0, 'sent': {'all-gather': {'fsdp': 6.0, 'data': 2.0}}}
    deeper = functools.partial(scaling._deeper, low, high)
    assert deeper(4) == high
    assert deeper(8)['sent']['all-gather'] == {'fsdp': 10.0, 'data': 6.0}
