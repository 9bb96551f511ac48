"""An iteration of PPO-Lagrangian at 7B and 70B on 8, 64 and 256 devices, compiled.

    python -m benchmarks.scaling [--cases 7b-8,70b-64] [--topology] [--json FILE]

No device is needed: models are shapes, and XLA compiles for TPU v5p with --topology
(libtpu must be installed), else for pretended CPU devices. It says which collectives a
program has and what a device must hold; from public speeds of two machines follows
which of arithmetic, memory and links takes longest, if each runs at its full rate.

XLA for CPUs keeps and sends bfloat16 as float32, so that its figures of a bfloat16
model are up to twice what an accelerator needs.

A rollout unrolls its layers: it is compiled with two and with four, and goes on
linearly.
"""

import argparse
from collections.abc import Iterable, Mapping
import dataclasses
import json
import math
import os
import pathlib
import time
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from beaver_jax import plan
from beaver_jax import sharding
from beaver_jax import terminal
from beaver_jax.stages import own_programs
from benchmarks import collectives
from benchmarks import lowering
from benchmarks import machines
from benchmarks import programs
from benchmarks import shapes

SHALLOW, DEEPER = 2, 4  # layers of the rollouts that are compiled
TOPOLOGIES = {8: 'v5p:2x2x2', 64: 'v5p:4x4x4', 256: 'v5p:4x8x8'}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model on a mesh.

    Attributes:
      preset: Of `shapes.PRESETS`.
      mesh: data, fsdp, tensor.
      rows: Of an iteration.
    """

    preset: str
    mesh: tuple[int, int, int]
    rows: int

    @property
    def devices(self) -> int:
        """How many there are."""
        return math.prod(self.mesh)

    @property
    def shape(self) -> shapes.Shape:
        """The preset with these rows."""
        return dataclasses.replace(shapes.PRESETS[self.preset], rows=self.rows)


# Parameters are spread over a host's eight GPUs first, then over hosts.
CASES = {
    '7b-8': Case('llama-7b', (1, 8, 1), 128),
    '7b-64': Case('llama-7b', (8, 8, 1), 512),
    '7b-256': Case('llama-7b', (32, 8, 1), 1024),
    '70b-8': Case('llama-70b', (1, 1, 8), 128),
    '70b-64': Case('llama-70b', (1, 8, 8), 512),
    '70b-256': Case('llama-70b', (4, 8, 8), 1024),
}


def main() -> None:
    """Prints tables, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', default=','.join(CASES), help='which, by commas')
    parser.add_argument('--topology', action='store_true', help='TPU v5p, by libtpu')
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    given = parser.parse_args()
    cases = {name: CASES[name] for name in given.cases.split(',') if name in CASES}
    if set(given.cases.split(',')) - set(cases):
        parser.error(f'--cases={given.cases}; choose of {", ".join(CASES)}.')
    plan.pretend(max(case.devices for case in cases.values()))
    found = {}
    for name, case in cases.items():
        begun = time.perf_counter()
        try:
            found[name] = compiled(case, mesh_of(case, given.topology))
            show(name, case, found[name])
        except jax.errors.JaxRuntimeError as error:  # it takes too much memory
            found[name] = {'refused': str(error).splitlines()[0]}
            print(f'{name}: {found[name]["refused"]}')
        found[name]['seconds'] = time.perf_counter() - begun
        if given.json:
            text = json.dumps({'jax': jax.__version__, 'cases': found}, indent=2)
            given.json.write_text(f'{text}\n')


def mesh_of(case: Case, topology: bool) -> Mesh:
    """Of pretended CPU devices, or of the chips of a TPU v5p that is not there."""
    devices = jax.devices()[: case.devices]
    if topology:
        os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # there is no cloud to ask
        name = TOPOLOGIES[case.devices]
        described = topologies.get_topology_desc(platform='tpu', topology_name=name)
        devices = described.devices
    return sharding.make_mesh(*case.mesh, devices=devices)


def compiled(case: Case, mesh: Mesh) -> dict[str, Any]:
    """What each phase of an iteration needs of a device, and its times on paper."""
    found = _phases(case.shape, mesh, 'score', 'update')
    low, high = (
        _phases(dataclasses.replace(case.shape, num_layers=layers), mesh, 'generate')
        for layers in (SHALLOW, DEEPER)
    )
    found |= _deeper(low, high, case.shape.num_layers)
    times = {
        machine.name: {
            phase: machines.seconds(
                machine, case.shape, mesh.shape, phase, found[phase]['sent']
            )
            for phase in shapes.PHASES
        }
        for machine in machines.ALL
    }
    # What learns, and what is frozen: scoring reads no more than that.
    held = found['update']['arguments'] + found['score']['arguments']
    peak = held + max(one['temporary'] for one in found.values())
    fits = {machine.name: peak <= machine.memory for machine in machines.ALL}
    return {'phases': found, 'times': times, 'held': held, 'fits': fits}


def _phases(shape: shapes.Shape, mesh: Mesh, *wanted: str) -> dict[str, dict[str, Any]]:
    """By phase: bytes of arguments and beside them, and bytes sent by kind and axes."""
    found = {}
    for phase, traced in lowering.trace(programs.Programs(shape), mesh):
        if phase in wanted:
            program = traced.lower().compile(compiler_options=_options(mesh))
            at_most = shape.response if phase == 'generate' else None
            sent = collectives.read(program.as_text(), dict(mesh.shape), at_most)
            found[phase] = {
                'arguments': program.memory_analysis().argument_size_in_bytes,
                'temporary': own_programs.temporary(program),
                'sent': _by_kind(sent),
            }
    return found


def _options(mesh: Mesh) -> dict[str, str | bool]:
    """On CPUs no machine code is made, which nobody would run."""
    cpu = mesh.devices.flat[0].platform == 'cpu'
    return {'xla_backend_optimization_level': '0'} if cpu else {}


def _by_kind(found: Iterable[collectives.Collective]) -> dict[str, dict[str, float]]:
    """Bytes that a device sends by kind, then by the axes that it goes along."""
    sums: dict[str, dict[str, float]] = {}
    for one in found:
        along = sums.setdefault(one.kind, {})
        axes = '×'.join(one.axes)
        along[axes] = along.get(axes, 0.0) + one.sent
    return sums


def _deeper(low: Any, high: Any, layers: int) -> Any:
    """Goes on linearly from two numbers of layers, in every figure."""
    if isinstance(low, Mapping):
        names = [*low, *(name for name in high if name not in low)]
        return {
            name: _deeper(low.get(name, type(high[name])()), high[name], layers)
            if name in high
            else low[name]
            for name in names
        }
    return low + (high - low) * (layers - SHALLOW) / (DEEPER - SHALLOW)


def show(name: str, case: Case, found: Mapping[str, Any]) -> None:
    """Prints what was found of a case."""
    mesh = '×'.join(map(str, case.mesh))
    fitting = ' and '.join(name for name, fits in found['fits'].items() if fits)
    phases = found['phases']
    kinds = [
        k for k in collectives.KINDS if any(k in phases[p]['sent'] for p in phases)
    ]
    terminal.table(
        f'{name}: {case.preset} on {mesh}, {case.rows} rows; GB of a device, '
        f'{found["held"] / 1e9:.2f} always held; fits {fitting or "neither"}',
        ['phase', 'arguments', 'temporary', *(f'{kind} sent' for kind in kinds)],
        [
            [
                phase,
                f'{phases[phase]["arguments"] / 1e9:.2f}',
                f'{phases[phase]["temporary"] / 1e9:.2f}',
                *(
                    f'{sum(phases[phase]["sent"].get(kind, {}).values()) / 1e9:.2f}'
                    for kind in kinds
                ),
            ]
            for phase in shapes.PHASES
        ],
    )
    terminal.table(
        f'{name}: seconds at full rates',
        ['machine', 'phase', *machines.PARTS, 'longest'],
        [
            [
                *(machine, phase),
                *(f'{parts[part]:.2f}' for part in machines.PARTS),
                max(parts, key=lambda part: parts[part]),
            ]
            for machine, by_phase in found['times'].items()
            for phase, parts in by_phase.items()
        ],
    )


if __name__ == '__main__':
    main()
