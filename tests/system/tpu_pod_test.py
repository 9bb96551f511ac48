"""A run on a pod of four hosts, which is preempted in the middle."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from beaver_jax import metrics
from tests import micro

STAND_IN = pathlib.Path(__file__).with_name('gcloud.py')
# One device a host.
MESH = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 1}
FEW = {'iterations': 3, 'data.test_share': 0.5}


def free_port():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Configs, and a run of one process with models and few rows."""
    configs = micro.write_configs(tmp_path_factory.mktemp('c') / 'configs')
    run = tmp_path_factory.mktemp('inputs') / 'run'
    for name in ('sft', 'reward', 'cost'):
        changes = {'run': run, 'steps': 1, **micro.ONE_DEVICE}
        argv = micro.arguments(configs, name, changes)
        micro.finished(micro.process('beaver_jax.train', argv))
    rows = micro.rows(run, tmp_path_factory.mktemp('rows'), count=32)
    return configs, micro.models(run, 'sft', 'reward', 'cost') | rows


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The stand-in on the PATH, and what every host installs."""
    here = tmp_path / 'cloud'
    here.mkdir()
    command = tmp_path / 'bin' / 'gcloud'
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv('PATH', f'{command.parent}:{os.environ["PATH"]}')
    monkeypatch.setenv('STAND_IN', str(here))
    monkeypatch.setenv('STAND_IN_PORT', str(free_port()))
    monkeypatch.setenv('SECRET', "it's hidden")
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=1'
    monkeypatch.setenv('XLA_FLAGS', flags)
    return here


def start(argv, *more):
    # The installation of a host: its own copy of the code, this environment.
    install = (
        'mkdir -p .venv/bin && printf \'#!/bin/sh\\necho "secret of ${#SECRET}"\\n'
        f'PYTHONPATH=. exec {sys.executable} "$@"\\n\' > .venv/bin/python && '
        'chmod +x .venv/bin/python'
    )
    options = [
        *('--name=pod', '--zone=nowhere-1', '--type=v5litepod-16', '--version=v2'),
        *(f'--install={install}', '--env=SECRET', '--poll=0.2', *more),
    ]
    return subprocess.Popen(
        [sys.executable, 'launch/tpu_pod.py', *options, '--', *argv],
        cwd=micro.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def preempt(cloud):
    """The slice and all that runs on it are gone."""
    state = json.loads((cloud / 'slice.json').read_text())
    (cloud / 'slice.json').write_text(json.dumps(state | {'state': 'PREEMPTED'}))
    for file in cloud.glob('host-*/beaver_jax/run.pid'):
        os.kill(int(file.read_text()), signal.SIGKILL)


def calls(cloud):
    lines = (cloud / 'calls.txt').read_text().splitlines()
    return [json.loads(line)[3] for line in lines]


def test_a_preempted_run_goes_on_and_equals_one_left_alone(inputs, cloud, tmp_path):
    configs, overrides = inputs
    run, alone = tmp_path / 'run', tmp_path / 'alone'
    changes = overrides | FEW | MESH
    argv = micro.arguments(configs, 'ppo_lag', changes | {'run': run})
    running = start(argv, '--delete')
    file = run / 'ppo_lag' / metrics.METRICS
    micro.wait_for_lines(running, file, 2)
    preempt(cloud)
    log, _ = running.communicate(timeout=1500)
    assert running.returncode == 0, log
    assert 'pod is PREEMPTED: it is made anew' in log
    assert f'[0] {run}/ppo_lag: resumed after step' in log
    assert f'[0] {run}/report/index.html' in log
    assert {x[:3] for x in log.splitlines() if 'secret of 11' in x} == {
        f'[{host}]' for host in range(4)
    }
    assert 'hidden' not in log
    assert 'hidden' not in (cloud / 'calls.txt').read_text()
    assert not list(cloud.rglob('*hidden*'))
    # Once for nothing, once for what was left; and at the end.
    made = [call for call in calls(cloud) if call in ('create', 'delete')]
    assert made == ['create', 'delete', 'create', 'delete']
    # Left alone, on the same four processes.
    argv = micro.arguments(configs, 'ppo_lag', changes | {'run': alone})
    running = start(argv)
    log, _ = running.communicate(timeout=1500)
    assert running.returncode == 0, log
    mine, other = (path / 'ppo_lag' / metrics.METRICS for path in (run, alone))
    assert mine.read_bytes() == other.read_bytes()
    weights = [micro.weights(path / 'ppo_lag' / 'model') for path in (run, alone)]
    assert weights[0] == weights[1]
    assert (cloud / 'slice.json').exists()  # nobody said --delete
    # A slice that is there is used; what fails on it is the end.
    shutil.rmtree(alone / 'ppo_lag')
    (cloud / 'calls.txt').unlink()
    running = start([*argv, '--config.iterations=0'])
    log, _ = running.communicate(timeout=300)
    assert running.returncode == 1, log
    assert 'Error: config.iterations=0' in log
    assert 'create' not in calls(cloud)
