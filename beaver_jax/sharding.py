"""Meshes, and the matching of sharding rules; knows no model."""

from collections.abc import Callable, Sequence
import logging
import math
import re
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

log = logging.getLogger(__name__)
AXES = ('data', 'fsdp', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))
Rules = Sequence[tuple[str, PartitionSpec]]


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Arranges all devices (or the given ones) into a mesh of axes data, fsdp, tensor.

    Of several slices, which a slower network connects, each holds whole groups of
    tensor, and as few axes as possible go over that network: data, then fsdp.

    Args:
      data: Replicas that see different data; -1 takes all devices that are left.
      fsdp: Shards of parameters that also see different data; may be -1 instead.
      tensor: Shards of single matmuls; may be -1 instead.
      devices: The devices; all of this program when None.

    Raises:
      ValueError: The sizes do not fit the number of devices, or the slices.
    """
    count = len(devices) if devices is not None else jax.device_count()
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    free = [axis for axis in AXES if sizes[axis] == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    for axis, size in sizes.items():
        if size != -1 and (size < 1 or count % size):
            raise ValueError(
                f'config.mesh.{axis}={size} does not divide {count} devices; '
                f'use {_divisors(count)}.'
            )
    if len(free) > 1 or count % fixed or (not free and fixed != count):
        raise ValueError(
            f'config.mesh={sizes} does not fit {count} devices: the product of the '
            f'sizes must be {count}, and one of them may be -1 (data is, unless it is '
            'set: --config.mesh.data=1 beside --config.mesh.fsdp=-1).'
        )
    for axis in free:
        sizes[axis] = count // fixed
    # Auto, not today's default Explicit, under which Flax Linen does not run.
    types = (AxisType.Auto,) * len(AXES)
    slices = {getattr(one, 'slice_index', 0) for one in devices or jax.devices()}
    if len(slices) == 1:
        arranged = _within_a_slice(sizes, devices)
    else:
        arranged = _over_slices(sizes, len(slices), devices)
    mesh = Mesh(arranged, AXES, axis_types=types)
    _warn_of_hosts(mesh)
    return mesh


def _within_a_slice(
    sizes: dict[str, int], devices: Sequence[jax.Device] | None
) -> np.ndarray:
    """Devices [data, fsdp, tensor], neighbours on a torus near each other."""
    shape = tuple(sizes.values())
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:  # sizes that are no products of the torus's, as 8 of 4³
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )


def _over_slices(
    sizes: dict[str, int], slices: int, devices: Sequence[jax.Device] | None
) -> np.ndarray:
    """Devices [data, fsdp, tensor], each slice's together."""
    data = math.gcd(sizes['data'], slices)
    outer = (data, slices // data, 1)
    inner = [size // parts for size, parts in zip(sizes.values(), outer, strict=True)]
    if sizes['fsdp'] % outer[1]:
        raise ValueError(
            f'config.mesh={sizes} does not fit {slices} slices: data×fsdp must be a '
            f'multiple of {slices}, as tensor stays within a slice.'
        )
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices)


def _warn_of_hosts(mesh: Mesh) -> None:
    """Where matmuls go over the network between hosts, they wait for it."""
    groups = mesh.devices.reshape(-1, mesh.shape['tensor'])
    hosts = max(len({device.process_index for device in group}) for group in groups)
    if hosts > 1 and groups[0, 0].platform != 'tpu':
        log.warning(
            'config.mesh.tensor=%d spans %d processes: every matmul waits for the '
            'network between them; use at most the %d devices of a process.',
            *(mesh.shape['tensor'], hosts, jax.local_device_count()),
        )


def _divisors(count: int) -> str:
    found = [str(d) for d in range(1, count + 1) if count % d == 0]
    return ' or '.join([', '.join(found[:-1]), found[-1]] if found[1:] else found)


def path_string(path: tuple[Any, ...]) -> str:
    """'layers/mlp/up/kernel' for a key path of a nested dict or struct."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def match_rules(rules: Rules, tree: Any) -> Any:
    """Gives each leaf the spec of the first rule that matches its whole path.

    Args:
      rules: Ordered (regex, spec).
      tree: A nested dict of arrays or shapes.

    Raises:
      ValueError: Leaves that no rule matches; names all of them.
    """
    unmatched = []

    def find(path, leaf):
        name = path_string(path)
        for pattern, spec in rules:
            if re.fullmatch(pattern, name):
                return spec
        unmatched.append(f'{name} {tuple(leaf.shape)}')
        return PartitionSpec()

    specs = jax.tree_util.tree_map_with_path(find, tree)
    if unmatched:
        raise ValueError(
            'no sharding rule matches these parameters; add a rule for each: '
            + ', '.join(unmatched)
        )
    return specs


def param_shardings(mesh: Mesh, rules: Rules, tree: Any) -> Any:
    """Returns a NamedSharding per parameter, after checking that it divides.

    Raises:
      ValueError: A parameter's axis is not a multiple of the mesh axes it is cut by.
    """

    def shard(path, leaf, spec):
        for size, axes in zip(leaf.shape, spec, strict=False):
            names = (axes,) if isinstance(axes, str) else axes or ()
            parts = math.prod(mesh.shape[name] for name in names)
            if size % parts:
                raise ValueError(
                    f'{path_string(path)} {tuple(leaf.shape)}: {size} is not a '
                    f'multiple of {parts}, the size of mesh axis {"×".join(names)}; '
                    f'choose another config.mesh.'
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(shard, tree, match_rules(rules, tree))


def state_shardings(mesh: Mesh, state: Any, rules: Rules) -> Any:
    """Shardings of a whole training state by its parameters' paths.

    A leaf whose path ends in a parameter's path (a parameter itself, or a moment of
    it in an optimizer state) is sharded like the parameter; all else (counters, λ,
    windows, normalizers) is replicated.
    """

    def shard(path, leaf):
        name = path_string(path)
        for pattern, spec in rules:
            if leaf.ndim == len(spec) and re.search(f'(^|/)({pattern})$', name):
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(shard, state)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows are spread over data and fsdp."""
    return NamedSharding(mesh, BATCH)


def check_batch(mesh: Mesh, name: str, size: int) -> None:
    """Refuses a batch size that the mesh's batch axes do not divide."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if size < 1:
        raise ValueError(f'{name}={size}; must be at least {parts}.')
    if size % parts:
        below = size // parts * parts
        near = f'{below} or {below + parts}' if below > 0 else f'{parts}'
        raise ValueError(
            f'{name}={size} is not a multiple of data×fsdp={parts} of the mesh; '
            f'use {near}.'
        )


def batch_part(mesh: Mesh, process: int) -> tuple[int, int]:
    """Which part of a batch a process has the rows of, and how many parts there are.

    Processes that differ along the tensor axis alone have the same rows.

    Raises:
      ValueError: Two processes share some of their rows only.
    """
    rows = mesh.devices.reshape(-1, mesh.shape['tensor'])
    held: dict[int, set[int]] = {}
    for row, devices in enumerate(rows):
        for device in devices:
            held.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(found)) for found in held.values()})
    if sum(map(len, parts)) > len(rows):
        raise ValueError(
            f'config.mesh.tensor={mesh.shape["tensor"]}: processes share some of their '
            'rows; use a divisor or a multiple of the devices of a process.'
        )
    return parts.index(tuple(sorted(held[process]))), len(parts)


def process_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Which rows of a batch this process's devices hold, ascending.

    They need not be neighbours: on TPUs the mesh follows the wires, not the hosts.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    held = [np.arange(size)[index] for index in places if index is not None]
    return np.unique(np.concatenate(held))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Makes global arrays of this process's rows, spread over the batch axes."""
    sharding = batch_sharding(mesh)

    def put(rows):
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

    return jax.tree.map(put, batch)


def spread(mesh: Mesh, batch: Any, sharding: NamedSharding | None = None) -> Any:
    """The same of rows that every process has all of; or in another sharding."""
    sharding = sharding or batch_sharding(mesh)

    def put(rows):
        return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)

    return jax.tree.map(put, batch)


def split_rows(tree: Any, parts: int) -> Any:
    """[B, ...] leaves to [parts, B / parts, ...]; part i holds rows i, i + parts ….

    Strided, so that with rows spread over devices each device keeps its own rows.
    """

    def split(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, tree)


def merge_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""

    def merge(x):
        x = x.swapaxes(0, 1)
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    return jax.tree.map(merge, tree)


def on_own_rows(fn: Callable[[Any, Any], Any], whole: Any, rows: Any) -> Any:
    """fn(whole, rows), by every device of the batch axes for its own rows alone.

    What all rows share is gathered once, before, and its gradient summed over the
    devices once, after: in a loop over parts of the rows XLA would do so every time.

    Args:
      fn: Treats rows apart, and may be sharded over the tensor axis inside.
      whole: A pytree of what all rows share.
      rows: A pytree of [B, ...] arrays; so is what fn returns.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = BATCH[0]
    parts = 1 if mesh.empty else math.prod(mesh.shape[name] for name in axes)
    if parts == 1 or jax.tree.leaves(rows)[0].shape[0] % parts:
        return fn(whole, rows)

    def local(whole, rows):
        return fn(jax.lax.pcast(whole, axes, to='varying'), rows)

    return jax.shard_map(
        local, in_specs=(PartitionSpec(), BATCH), out_specs=BATCH, axis_names=set(axes)
    )(whole, rows)


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy on every process, wherever their shards are."""

    def fetch(x):
        whole = not isinstance(x, jax.Array) or x.is_fully_replicated
        if not whole and not x.is_fully_addressable:
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(x)

    return jax.tree.map(fetch, tree)
