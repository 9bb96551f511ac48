"""Lowers an iteration of PPO-Lagrangian for CUDA and TPUs, on any machine.

    python -m benchmarks.lowering [--preset llama-7b] [--mesh 1,4,2] [--json FILE]

Nothing is allocated: models are shapes, spread over so many pretended devices. Each
program (the rollout's prefill and loop, scoring, update) is lowered for each platform,
and its attention kernels are counted. jax asks for cuDNN's version while it traces; it
is told that there is one.

FLOPs: what XLA's cost analysis counts in scoring and update, lowered for a CPU without
rematerialization, by the work on paper (`shapes.Shape.flops`). XLA counts the body of a
loop once, whatever its trips. So loops over layers and rows are unrolled for this
count, with one and with two layers, in one part: the layers are alike, and
f(L) = f(1) + (L - 1)·(f(2) - f(1)). CPUs have XLA's attention, by blocks of queries.
The rollout's loop over tokens has no such count.

With libtpu installed, --topology v5p:2x2x2 compiles scoring and update for that TPU as
well, which needs none.
"""

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import time
from typing import Any
from unittest import mock

import jax
from jax._src.lax.control_flow import loops
from jax.experimental import topologies
from jax.sharding import Mesh

from beaver_jax import plan
from beaver_jax import sharding
from beaver_jax import terminal
from beaver_jax.models import transformer
from beaver_jax.stages import roles
from benchmarks import cudnn
from benchmarks import programs
from benchmarks import shapes

PLATFORMS = ('cuda', 'tpu')
KERNELS = {'cudnn': '@__cudnn$fmha', 'splash': '@tpu_custom_call'}
COUNTED = ('score', 'update')


def main() -> None:
    """Prints tables, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=sorted(shapes.PRESETS), default='llama-7b')
    parser.add_argument('--mesh', default='1,4,2', help='data,fsdp,tensor')
    parser.add_argument('--topology', help='a TPU to compile for, of as many chips')
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    given = parser.parse_args()
    sizes = [int(size) for size in given.mesh.split(',')]
    plan.pretend(math.prod(sizes))
    shape = shapes.PRESETS[given.preset]
    found: dict[str, Any] = {
        'programs': lower(shape, sharding.make_mesh(*sizes)),
        'flops_ratio': flops_ratios(shape),
        'mesh': sizes,
        'jax': jax.__version__,
    }
    show(found)
    if given.topology:
        described = topologies.get_topology_desc(
            platform='tpu', topology_name=given.topology
        )
        mesh = sharding.make_mesh(*sizes, devices=described.devices)
        found['compiled'] = compile_for_tpu(shape, mesh)
        print(json.dumps(found['compiled'], indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + '\n')


def lower(shape: shapes.Shape, mesh: Mesh) -> list[dict[str, Any]]:
    """Each program for each platform: its size, its kernels, and how long it took."""
    found = []
    for phase, traced in trace(programs.Programs(shape), mesh):
        for platform in PLATFORMS:
            begun = time.perf_counter()
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            kernels = {name: text.count(call) for name, call in KERNELS.items()}
            row = {'program': phase, 'platform': platform, 'bytes': len(text.encode())}
            seconds = time.perf_counter() - begun
            found.append(row | kernels | {'seconds': seconds})
    return found


def trace(made: programs.Programs, mesh: Mesh) -> Iterator[tuple[str, Any]]:
    """Yields each program by name, traced for a mesh from shapes."""
    found = made.abstract()  # a mesh of devices that are not there runs nothing
    with jax.set_mesh(mesh), cudnn.presumed():
        for phase, arguments in found.items():
            yield (
                phase,
                jax.jit(
                    made.functions[phase],
                    donate_argnums=(0,) if phase == 'update' else (),
                ).trace(*spread(mesh, made.shape, arguments)),
            )


def spread(mesh: Mesh, shape: shapes.Shape, arguments: Any) -> Any:
    """Rows go over the mesh's batch axes, parameters by the decoder's rules."""
    rows = sharding.batch_sharding(mesh)

    def place(placed):
        by_row = placed.shape[:1] == (shape.rows,) and not placed.sharding.spec
        where = rows if by_row else placed.sharding
        return jax.ShapeDtypeStruct(placed.shape, placed.dtype, sharding=where)

    return jax.tree.map(place, roles.placed(mesh, arguments))


def flops_ratios(shape: shapes.Shape) -> dict[str, float]:
    """What XLA counts in a program, by the work on paper; see above."""
    one, two = (_counted(shape, layers) for layers in (1, 2))
    layers = shape.num_layers - 1
    paper = shape.flops()
    return {
        phase: (one[phase] + layers * (two[phase] - one[phase])) / paper[phase]
        for phase in COUNTED
    }


def _counted(shape: shapes.Shape, layers: int) -> dict[str, float]:
    changes: dict[str, Any] = {'num_layers': layers, 'remat': 'none', 'chunks': 1}
    made = programs.Programs(dataclasses.replace(shape, **changes))
    found = {}
    with _unrolled():  # also where shapes are looked for, which jax keeps the trace of
        for phase, arguments in made.abstract().items():
            if phase in COUNTED:
                lowered = jax.jit(made.functions[phase]).lower(*arguments)
                costs: Any = lowered.cost_analysis()
                found[phase] = costs['flops']
    return found


@contextlib.contextmanager
def _unrolled() -> Iterator[None]:
    """Every scan, and every map over one, has its trips side by side.

    And one or two layers are computed whole, as those of deep models are.
    """
    scan = functools.partial(jax.lax.scan, unroll=True)
    with (
        mock.patch.object(jax.lax, 'scan', scan),
        mock.patch.object(loops, 'scan', scan),
        mock.patch.object(transformer, 'UNROLLED', 0),
    ):
        yield


def compile_for_tpu(shape: shapes.Shape, mesh: Mesh) -> dict[str, dict[str, float]]:
    """Seconds to compile scoring and update, and the bytes that a device needs."""
    found = {}
    for phase, traced in trace(programs.Programs(shape), mesh):
        if phase not in COUNTED:
            continue
        begun = time.perf_counter()
        memory = traced.lower().compile().memory_analysis()
        found[phase] = {
            'seconds': time.perf_counter() - begun,
            'argument_bytes': memory.argument_size_in_bytes,
            'temporary_bytes': memory.temp_size_in_bytes,
        }
    return found


def show(found: dict[str, Any]) -> None:
    """Prints what was lowered."""
    ratios = found['flops_ratio']
    terminal.table(
        'Lowered on a mesh of ' + '×'.join(str(size) for size in found['mesh']),
        ['program', 'platform', 'MB', 'cuDNN', 'splash', 'FLOPs by paper', 'seconds'],
        [
            [
                row['program'],
                row['platform'],
                f'{row["bytes"] / 1e6:.1f}',
                str(row['cudnn']),
                str(row['splash']),
                f'{ratios[row["program"]]:.3f}' if row['program'] in ratios else '',
                f'{row["seconds"]:.1f}',
            ]
            for row in found['programs']
        ],
    )


if __name__ == '__main__':
    main()
