"""Tests of meshes, rules and shardings, on eight fake devices."""

import math
import re
import types

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from beaver_jax import optim
from beaver_jax import sharding
from beaver_jax.models import hf
from beaver_jax.models import transformer
from beaver_jax.steps import state as state_lib
from tests import tiny

RULES = (
    (r'layers/\w+/kernel', PartitionSpec(None, 'fsdp', 'tensor')),
    (r'.*/kernel', PartitionSpec('fsdp', 'tensor')),
    (r'.*/bias', PartitionSpec(None)),
)
TREE = {
    'layers': {'up': {'kernel': jnp.zeros((3, 4, 8))}},
    'head': {'kernel': jnp.zeros((4, 8)), 'bias': jnp.zeros(8)},
}


def sizes(mesh):
    return tuple(mesh.shape[axis] for axis in sharding.AXES)


def test_the_mesh_takes_all_devices_by_default():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == ('data', 'fsdp', 'tensor')
    assert sizes(mesh) == (8, 1, 1)


@pytest.mark.parametrize(
    'asked, found',
    [((-1, 2, 2), (2, 2, 2)), ((1, -1, 2), (1, 4, 2)), ((2, 2, -1), (2, 2, 2))],
)
def test_one_axis_may_take_what_is_left(asked, found):
    assert sizes(sharding.make_mesh(*asked)) == found


def test_a_mesh_of_some_devices():
    mesh = sharding.make_mesh(1, 2, devices=jax.devices()[:2])
    assert sizes(mesh) == (1, 2, 1)
    assert list(mesh.devices.flat) == jax.devices()[:2]


class Device(types.SimpleNamespace):
    """A stand-in; each is equal to itself alone, as a mesh wants it."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def of_slices(each, count, slices):
    """Stand-ins for devices of several hosts and slices."""
    return [
        Device(
            id=i,
            process_index=i // each,
            slice_index=i // (count // slices),
            platform='gpu',
            device_kind='stand-in',
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    'asked, found',
    [
        # Four slices of four: a replica in each.
        ((-1, 2, 2), [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
        # Two replicas over slices 0, 1 and 2, 3; fsdp goes over two slices each.
        ((2, 4, 2), [[[0, 1], [2, 3], [4, 5], [6, 7]]]),
    ],
)
def test_a_slice_holds_whole_groups_of_tensor(asked, found):
    mesh = sharding.make_mesh(*asked, devices=of_slices(2, 16, 4))
    placed = np.vectorize(lambda device: device.id)(mesh.devices)
    assert placed[: len(found)].tolist() == found


def test_tensor_over_slices_is_refused():
    with pytest.raises(ValueError, match='does not fit 4 slices: data×fsdp must be a'):
        sharding.make_mesh(2, 1, 8, devices=of_slices(2, 16, 4))


def test_tensor_over_hosts_is_warned_of(caplog):
    devices = of_slices(2, 8, 1)
    sharding.make_mesh(4, 1, 2, devices=devices)
    assert not caplog.records
    mesh = sharding.make_mesh(2, 1, 4, devices=devices)
    assert 'config.mesh.tensor=4 spans 2 processes' in caplog.text
    caplog.clear()
    for device in devices:
        device.platform = 'tpu'
    sharding._warn_of_hosts(mesh)
    assert not caplog.records  # between TPUs of a slice there is no such network


def of_torus(*lengths):
    """Stand-ins for the chips of a TPU v5p, four to a host."""
    places = np.ndindex(*reversed(lengths))
    return [
        Device(
            id=i,
            process_index=i // 4,
            coords=place[::-1],
            core_on_chip=0,
            platform='tpu',
            device_kind='TPU v5',
        )
        for i, place in enumerate(places)
    ]


# Of 4×4×4 chips 16 are a plane; 8 are a part of one.
@pytest.mark.parametrize('asked', [(4, 16, 1), (8, 8, 1), (1, 8, 8), (2, 8, 4)])
def test_a_torus_is_cut_into_axes_of_any_sizes(asked):
    devices = of_torus(4, 4, 4)
    mesh = sharding.make_mesh(*asked, devices=devices)
    assert sizes(mesh) == asked
    assert {device.id for device in mesh.devices.flat} == set(range(64))


def test_axes_are_automatic():
    kinds = set(sharding.make_mesh().axis_types)
    assert kinds == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    'asked, message',
    [
        ((-1, 3, 1), 'config.mesh.fsdp=3 does not divide 8 devices; use 1, 2, 4 or 8.'),
        ((0, 1, 1), 'config.mesh.data=0 does not divide 8 devices; use 1, 2, 4 or 8.'),
        (
            (2, 2, 1),
            "config.mesh={'data': 2, 'fsdp': 2, 'tensor': 1} does not fit 8 devices: "
            'the product of the sizes must be 8, and one of them may be -1 (data is, ',
        ),
        ((4, 4, 1), 'does not fit 8 devices'),
        ((-1, -1, 1), 'one of them may be -1'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(asked, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sharding.make_mesh(*asked)


def test_on_one_device_there_is_one_size():
    with pytest.raises(ValueError, match=r'does not divide 1 devices; use 1\.$'):
        sharding.make_mesh(1, 2, 1, devices=jax.devices()[:1])


def test_the_first_full_match_wins():
    found = sharding.match_rules(RULES, TREE)
    assert found['layers']['up']['kernel'] == PartitionSpec(None, 'fsdp', 'tensor')
    assert found['head']['kernel'] == PartitionSpec('fsdp', 'tensor')
    assert found['head']['bias'] == PartitionSpec(None)


def test_unmatched_parameters_are_all_named():
    tree = TREE | {'norm': {'scale': jnp.zeros(4)}, 'kernels': jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match='no sharding rule') as error:
        sharding.match_rules(RULES, tree)
    assert 'norm/scale (4,)' in str(error.value)
    assert 'kernels (2, 3)' in str(error.value)
    assert 'head' not in str(error.value)


def test_a_rule_must_match_the_whole_path():
    with pytest.raises(ValueError, match='outer/head/kernel'):
        sharding.match_rules(
            (('head/kernel', PartitionSpec()),),
            {'outer': {'head': {'kernel': jnp.zeros(1)}}},
        )


def test_parameters_are_cut_by_the_mesh():
    mesh = sharding.make_mesh(2, 2, 2)
    placed = jax.device_put(TREE, sharding.param_shardings(mesh, RULES, TREE))
    # [3, 4, 8] by (-, fsdp 2, tensor 2), and copied over data.
    shards = placed['layers']['up']['kernel'].addressable_shards
    assert [shard.data.shape for shard in shards] == [(3, 2, 4)] * 8


def test_a_parameter_that_does_not_divide_is_named():
    message = (
        'head/kernel (4, 6): 6 is not a multiple of 4, the size of mesh axis tensor; '
        'choose another config.mesh.'
    )
    mesh = sharding.make_mesh(1, 2, 4)
    with pytest.raises(ValueError, match=re.escape(message)):
        sharding.param_shardings(mesh, RULES, {'head': {'kernel': jnp.zeros((4, 6))}})


def test_an_axis_cut_by_two_mesh_axes_must_divide_by_both():
    mesh, rules = sharding.make_mesh(2, 4), ((r'x', PartitionSpec(('data', 'fsdp'))),)
    with pytest.raises(ValueError, match=r'4 is not a multiple of 8, .* data×fsdp'):
        sharding.param_shardings(mesh, rules, {'x': jnp.zeros(4)})


def test_moments_are_sharded_like_their_parameters_and_the_rest_is_replicated():
    mesh = sharding.make_mesh(2, 2, 2)
    params = hf.abstract_params(transformer.CausalLM(tiny.config()))
    optimizer = optim.make_optimizer(optim.OptimizerConfig(learning_rate=1.0), 10)
    state = {
        'actor': jax.eval_shape(lambda p: state_lib.init_learner(p, optimizer), params),
        'multiplier': {'harm': jnp.ones(())},
        'window': jnp.zeros(4),
    }
    found = sharding.state_shardings(mesh, state, transformer.RULES)
    specs = {
        sharding.path_string(path): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    }
    up = PartitionSpec(None, 'fsdp', 'tensor')
    ups = [name for name in specs if name.endswith('layers/mlp/up/kernel')]
    assert len(ups) == 3  # the parameter and two moments
    assert {specs[name] for name in ups} == {up}
    names = {
        sharding.path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    rest = [s for n, s in specs.items() if not n.endswith(tuple(names))]
    assert len(rest) > 4  # counters, λ, the window
    assert set(rest) == {PartitionSpec()}


def test_a_number_kept_per_parameter_is_replicated():
    # It is named like the parameter but has none of its axes.
    mesh = sharding.make_mesh(2, 2, 2)
    state = {'norms': {'lm_head': {'kernel': jnp.zeros(())}}}
    (found,) = jax.tree.leaves(sharding.state_shardings(mesh, state, transformer.RULES))
    assert found.spec == PartitionSpec()


def test_a_batch_must_divide_by_data_and_fsdp():
    mesh = sharding.make_mesh(2, 2, 2)
    sharding.check_batch(mesh, 'config.batch_size', 8)
    message = (
        'config.batch_size=6 is not a multiple of data×fsdp=4 of the mesh; use 4 or 8.'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        sharding.check_batch(mesh, 'config.batch_size', 6)


@pytest.mark.parametrize(
    ('size', 'told'),
    [(3, r'is not .* use 4\.$'), (0, 'must be at least 4'), (-4, 'must be at least 4')],
)
def test_a_batch_below_the_mesh_is_told_the_least_size(size, told):
    mesh = sharding.make_mesh(2, 2, 2)
    with pytest.raises(ValueError, match=f'^batch={size}[ ;] ?{told}'):
        sharding.check_batch(mesh, 'batch', size)


@pytest.mark.parametrize(
    ('each', 'sizes', 'parts'),
    [
        (2, (4, 1, 2), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (2, (2, 2, 2), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (4, (2, 2, 2), [(0, 2), (1, 2)]),
        # A matmul over two processes, which have the same rows; and over all.
        (2, (1, 2, 4), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (2, (1, 1, 8), [(0, 1)] * 4),
        (8, (4, 2, 1), [(0, 1)]),
    ],
)
def test_processes_have_parts_of_a_batch(each, sizes, parts):
    mesh = _of_processes(each, sizes)
    found = [sharding.batch_part(mesh, process) for process in range(8 // each)]
    assert found == parts


def test_processes_with_some_rows_in_common_are_refused():
    mesh = _of_processes(2, (2, 1, 3))
    with pytest.raises(
        ValueError, match=r'config\.mesh\.tensor=3: processes share some'
    ):
        sharding.batch_part(mesh, 0)


def _of_processes(each, sizes):
    """What is asked of a mesh over processes with so many devices each."""
    devices = [
        types.SimpleNamespace(process_index=i // each) for i in range(math.prod(sizes))
    ]
    return types.SimpleNamespace(
        devices=np.array(devices).reshape(sizes),
        shape=dict(zip(sharding.AXES, sizes, strict=True)),
    )


def test_a_batch_is_spread_and_comes_back_whole():
    mesh = sharding.make_mesh(2, 2, 2)
    batch = {'tokens': np.arange(24).reshape(8, 3), 'mask': np.ones(8, bool)}
    placed = sharding.put_batch(mesh, batch)
    # 8 rows over data 2 × fsdp 2, copied over tensor.
    shards = placed['tokens'].addressable_shards
    assert {shard.data.shape for shard in shards} == {(2, 3)}
    jax.tree.map(np.testing.assert_array_equal, sharding.to_host(placed), batch)
    assert all(isinstance(x, np.ndarray) for x in sharding.to_host(placed).values())


def test_a_replicated_array_is_whole_on_every_device():
    mesh = sharding.make_mesh(2, 2, 2)
    placed = jax.device_put(jnp.arange(4), sharding.replicated(mesh))
    assert [shard.data.shape for shard in placed.addressable_shards] == [(4,)] * 8


def test_split_rows_are_strided_and_merge_back():
    rows = {'x': jnp.arange(6), 'y': jnp.arange(12).reshape(6, 2)}
    parts = sharding.split_rows(rows, 2)
    np.testing.assert_array_equal(parts['x'], [[0, 2, 4], [1, 3, 5]])
    assert parts['y'].shape == (2, 3, 2)
    jax.tree.map(np.testing.assert_array_equal, sharding.merge_rows(parts), rows)
