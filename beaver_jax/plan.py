r"""Will it fit? Bytes per device of a stage, before anything is allocated.

    python -m beaver_jax.plan --config=configs/ppo_lag.py:llama-7b \
        --config.base=DIRECTORY --devices=8 --memory=80

The directory needs a config.json and no weights. Every program of the stage is compiled
from shapes; nothing runs. With --devices=N it is compiled for N CPU devices, as many as
the machine has or not; without, for the devices that there are. With --memory=GB (10⁹
bytes per device) a plan that does not fit is followed by changes that do. --json=FILE
writes all figures. --shapes-only compiles nothing, and leaves out the activations.
docs/memory.md says what the figures mean.
"""

from collections.abc import Sequence
import dataclasses
import logging
import pathlib
import sys
from typing import Any

import jax
import ml_collections

from beaver_jax import config as config_lib
from beaver_jax import metrics as metrics_lib
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import terminal
from beaver_jax.stages import alternatives
from beaver_jax.stages import footprint
from beaver_jax.stages import inputs

log = logging.getLogger('beaver_jax.plan')  # also when it is __main__
GB = 10**9
COLUMNS = ('parameters', 'gradients', 'optimizer', 'cache', 'activations')


def main(argv: Sequence[str] | None = None) -> None:
    """Plans what the command line asks for and prints tables."""
    parser = config_lib.parser('beaver_jax.plan', __doc__)
    parser.add_argument('--devices', type=int, help='plan for so many; else for all')
    parser.add_argument('--memory', type=float, help='of a device, in 10⁹ bytes')
    parser.add_argument('--json', type=pathlib.Path, help='file that gets every figure')
    parser.add_argument(
        '--shapes-only',
        action='store_true',
        help='what is always held; without --memory, which asks for the peak',
    )
    ours, argv = parser.parse_known_args(argv)
    terminal.show_log()
    config = config_lib.from_argv(argv)
    with terminal.errors_in_a_line(ValueError, OSError):
        if ours.shapes_only and ours.memory is not None:
            raise ValueError(
                '--memory asks for the peak, which --shapes-only leaves out; give one '
                'of the two.'
            )
        if ours.devices is not None:
            pretend(ours.devices)
            inputs.settle(config, 'bfloat16')  # they stand for accelerators
        found = run(
            config,
            config_lib.folder(argv),
            ours.devices,
            ours.memory,
            compiles=not ours.shapes_only,
        )
        show(found, ours.memory, compiled=not ours.shapes_only)
        if ours.json is not None:
            metrics_lib.write_json(ours.json, found)


def pretend(devices: int) -> None:
    """Gives this process a number of CPU devices, before jax looks for any.

    Raises:
      ValueError: It has looked, and found fewer.
    """
    if devices < 1:
        raise ValueError(f'--devices={devices}; must be at least 1.')
    try:
        jax.config.update('jax_platforms', 'cpu')
        jax.config.update('jax_num_cpu_devices', devices)
    except RuntimeError as error:
        if jax.device_count() < devices:
            raise ValueError(
                f'--devices={devices}: this process has begun with '
                f'{jax.device_count()}; start a new one.'
            ) from error


def run(
    config: ml_collections.ConfigDict,
    folder: str,
    devices: int | None = None,
    memory: float | None = None,
    *,
    compiles: bool = True,
) -> dict[str, Any]:
    """Plans a config, and what would fit where it does not.

    Args:
      config: Of a stage.
      folder: Where its sibling configs are.
      devices: The first so many of those that there are; None for all.
      memory: 10⁹ bytes per device; None where it does not matter.
      compiles: See `footprint.plan`.

    Returns:
      {'plan': …, 'fits': …, 'alternatives': [{'changes': …, 'plan': …}]}, JSON-like.

    Raises:
      ValueError: Settings that do not fit, or a model that nothing is known of.
    """
    stages.check_trains(config)
    is_sft = config.stage == 'sft'
    sft_config = config if is_sft else stages.sibling(config, folder, 'sft')
    known: dict[str, int] = {}

    def planned(config) -> tuple[footprint.Plan, Any]:
        mesh = sharding.make_mesh(**config.mesh, devices=jax.devices()[:devices])
        stages.CHECKS[config.stage](config, mesh)
        found = footprint.plan(config, mesh, sft_config, known, compiles=compiles)
        return found, mesh

    if compiles:
        log.info('%s: compiling its programs for shapes', config.stage)
    plan, mesh = planned(config)
    fits = None if memory is None else plan.peak <= memory * GB
    others = []
    if fits is False:
        for changes in alternatives.of(config, mesh):
            log.info('%s', flags(changes))
            try:
                other, _ = planned(alternatives.apply(config, changes))
            except ValueError as error:
                log.info('is not possible: %s', error)
                continue
            others.append({'changes': changes, 'plan': described(other)})
    return {'plan': described(plan), 'fits': fits, 'alternatives': others}


def described(plan: footprint.Plan) -> dict[str, Any]:
    """A plan as JSON."""
    more = {'held': plan.held, 'phases': plan.phases, 'peak': plan.peak}
    return dataclasses.asdict(plan) | more


def flags(changes: alternatives.Changes) -> str:
    """Changes as options of the command line."""
    return ' '.join(f'--config.{key}={value}' for key, value in changes.items())


def _gb(size: int) -> str:
    """10⁹ bytes, two digits at least of what is small."""
    return f'{size / GB:.2f}' if not 0 < size < GB else f'{size / GB:.2g}'


def show(found: dict[str, Any], memory: float | None, *, compiled: bool) -> None:
    """Prints the table of a plan, and what would fit."""
    plan = found['plan']
    columns = COLUMNS if compiled else COLUMNS[:-1]
    rows = [
        [role['role'], *(_gb(role[column]) for column in columns)]
        for role in plan['roles']
    ]
    mesh = '×'.join(str(size) for size in plan['mesh'].values())
    terminal.table(
        f'GB per device on a mesh of {mesh} (data × fsdp × tensor)',
        ['', *columns],
        rows,
    )
    held = _gb(plan['held'])
    where = 'always'
    if plan['waiting']:
        where = 'on devices and hosts'
    terminal.table(
        'The most that is held at a time',
        ['phase', 'GB per device'],
        [
            [f'{where} (parameters, optimizer)', held],
            *([name, _gb(size)] for name, size in plan['phases'].items() if compiled),
        ],
    )
    if found['fits'] is None:
        return
    peak = f'{_gb(plan["peak"])} GB'
    if found['fits']:
        print(f'It fits: {peak} of {memory:g} GB.')
        return
    print(f'It does not fit: {peak}, but a device has {memory:g} GB.')
    limit = (memory or 0) * GB
    others = sorted(found['alternatives'], key=lambda other: other['plan']['peak'])
    fitting = [other for other in others if other['plan']['peak'] <= limit]
    if not fitting:
        print('Nothing that was tried fits; the smallest was:')
    for other in fitting or others[:1]:
        print(f'{_gb(other["plan"]["peak"]):>8} GB  {flags(other["changes"])}')


if __name__ == '__main__':
    main(sys.argv[1:])
