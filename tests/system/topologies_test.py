"""A run that moves to other devices at each start goes on as if it had not."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from beaver_jax import metrics
from tests import micro

ITERATIONS = 12
# Where each start runs, and how many iterations are done when it is told to end.
PLACES = {
    '8': ({'data': 2, 'fsdp': 2, 'tensor': 2}, 8, 1, 2),
    '1': ({'data': 1, 'fsdp': 1, 'tensor': 1}, 1, 1, 5),
    '2x4': ({'data': 1, 'fsdp': 2, 'tensor': 4}, 8, 1, 8),
    'two processes': ({'data': 2, 'fsdp': 4, 'tensor': 1}, 4, 2, None),
}


def start(argv, devices, processes):
    """The same command, on so many devices of each process."""
    command = [sys.executable, '-m', 'beaver_jax.train', *argv]
    environment = dict(os.environ)
    if processes > 1:
        options = [f'--processes={processes}', f'--fake_devices={devices}']
        command = [sys.executable, 'launch/local.py', *options, '--', *argv]
        environment['PYTHONPATH'] = str(micro.ROOT)
    else:
        flag = f'--xla_force_host_platform_device_count={devices}'
        environment['XLA_FLAGS'] = f'{environment["XLA_FLAGS"]} {flag}'
    return subprocess.Popen(
        command,
        cwd=micro.ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Configs, and what a policy starts from."""
    # Adam makes a whole step of what is left of a gradient that is nearly 0, and that
    # is rounding, which another order of sums changes. Below eps it makes a small one.
    smooth = {'actor_optimizer.eps': 1e-3, 'critic_optimizer.eps': 1e-3}
    folder = tmp_path_factory.mktemp('configs') / 'configs'
    configs = micro.write_configs(
        folder, {'ppo_lag': smooth | {'iterations': ITERATIONS}}
    )
    run = tmp_path_factory.mktemp('inputs') / 'run'
    for name in ('sft', 'reward', 'cost'):
        changes = {'run': run, **micro.ONE_DEVICE}
        argv = micro.arguments(configs, name, changes)
        micro.finished(micro.process('beaver_jax.train', argv))
    return configs, micro.models(run, 'sft', 'reward', 'cost') | micro.rows(
        run, tmp_path_factory.mktemp('rows')
    )


def command(inputs, run: pathlib.Path, mesh):
    configs, overrides = inputs
    sizes = {f'mesh.{axis}': size for axis, size in mesh.items()}
    return micro.arguments(configs, 'ppo_lag', overrides | sizes | {'run': run})


def test_metrics_are_those_of_a_run_that_stayed(inputs, tmp_path):
    stayed, moved = tmp_path / 'stayed', tmp_path / 'moved'
    mesh, devices, processes, _ = PLACES['8']
    log, _ = start(command(inputs, stayed, mesh), devices, processes).communicate()
    rows = metrics.read(stayed / 'ppo_lag' / metrics.METRICS)
    assert len(rows) == ITERATIONS, log
    file = moved / 'ppo_lag' / metrics.METRICS
    reached = [0]
    for place, (mesh, devices, processes, until) in PLACES.items():
        running = start(command(inputs, moved, mesh), devices, processes)
        if until is not None:
            micro.wait_for_lines(running, file, until)
            running.send_signal(signal.SIGTERM)
        log, _ = running.communicate(timeout=600)
        assert running.returncode == (0 if until is None else 143), (place, log)
        if place != '8':
            assert f'resumed after step {reached[-1]}' in log, (place, log)
        reached.append(len(metrics.read(file)))
        assert reached[-1] > reached[-2], place  # it learnt in each place
    assert reached[-1] == ITERATIONS
    for row, other in zip(rows, metrics.read(file), strict=True):
        assert row.keys() == other.keys()
        for name in row:
            # Sums in another order: about 1e-7 of the largest term.
            assert other[name] == pytest.approx(row[name], rel=1e-5, abs=1e-5), (
                name,
                row['step'],
            )
