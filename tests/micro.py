"""Runs of a few steps on models of a few thousand parameters, for tests of runs."""

from collections.abc import Callable, Mapping, Sequence
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import IO, Any

import jax
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax import train

ROOT = pathlib.Path(__file__).parents[1]

_SCRATCH = {
    'embed_dim': 16,
    'num_layers': 2,
    'num_heads': 2,
    'num_kv_heads': 1,
    'head_dim': 8,
    'mlp_dim': 32,
}
_SUPERVISED = {'batch_size': 16, 'steps': 4, 'checkpoint.every': 2}
_REINFORCED = {
    'iterations': 5,
    'rollout.prompts': 16,
    'max_response_length': 8,
    'multiplier.window': 16,
    'checkpoint.every': 1,
}
# The eight fake devices of this process, all axes in use; and a process of one device.
MESH = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}
ONE_DEVICE = {'mesh.data': 1, 'mesh.fsdp': 1, 'mesh.tensor': 1}
# What tests compute with.
_CONSTRAINED = {
    'costs.harm.normalize': False,
    'costs.harm.threshold': -3.0,
    'costs.harm.multiplier_init': 1.0,
    'multiplier.form': 'projected',
    'multiplier.learning_rate': 0.2,
    'multiplier.max': 5.0,
}
# What makes each config small.
CHANGES: dict[str, dict[str, Any]] = {
    'sft': _SUPERVISED | {f'model.scratch.{k}': v for k, v in _SCRATCH.items()},
    'reward': _SUPERVISED,
    'cost': _SUPERVISED,
    'ppo': _REINFORCED,
    'ppo_lag': _REINFORCED | _CONSTRAINED,
    'ppo_reward_shaping': _REINFORCED,
    'evaluate': {'max_response_length': 8},
}
_FILE = '''"""The shipped config, small."""

from beaver_jax import config as config_lib


def get_config(preset='tiny'):
    return config_lib.load({path!r} + ':' + preset, {changes!r})
'''


def write_configs(
    directory: pathlib.Path, more: Mapping[str, Mapping[str, Any]] | None = None
) -> pathlib.Path:
    """Writes the shipped configs, small, into a folder, and returns it.

    Args:
      directory: Made if it does not exist.
      more: Further changes by config.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, changes in CHANGES.items():
        path = str(ROOT / 'configs' / f'{name}.py')
        changes = MESH | changes | dict((more or {}).get(name, {}))
        texts = {key: str(value) for key, value in changes.items()}
        (directory / f'{name}.py').write_text(_FILE.format(path=path, changes=texts))
    return directory


def arguments(
    configs: pathlib.Path, name: str, overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """The command line of a config in a folder."""
    changes = [f'--config.{key}={value}' for key, value in (overrides or {}).items()]
    return [f'--config={configs / name}.py', *changes]


def train_alone(argv: list[str]) -> None:
    """Trains one stage, without what comes before, evaluation and report."""
    config = config_lib.from_argv(argv)
    mesh = sharding.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        train.train(config, mesh)


def models(run: pathlib.Path, *names: str) -> dict[str, str]:
    """Overrides of a policy's config that start from stages of another run."""
    keys = {'sft': 'actor.init', 'reward': 'reward.init', 'cost': 'costs.harm.init'}
    return {keys[name]: str(run / name) for name in names}


def rows(run: pathlib.Path, directory: pathlib.Path, count: int = 96) -> dict[str, str]:
    """Overrides of any config with the first rows of a run's world.

    Args:
      run: With a world.
      directory: Gets the files.
      count: Rows of each.
    """
    directory.mkdir(exist_ok=True)
    for file in (run / 'world').glob('*.jsonl'):
        lines = file.read_text().splitlines(keepends=True)[:count]
        (directory / file.name).write_text(''.join(lines))
    world = {
        'sft': 'sft',
        'reward_pairs': 'pairs_train',
        'reward_pairs_test': 'pairs_test',
        'cost_pairs': 'pairs_train',
        'cost_pairs_test': 'pairs_test',
        'prompts': 'prompts_train',
        'prompts_test': 'prompts_test',
    }
    files = {f'data.{u}': f'{directory / f}.jsonl' for u, f in world.items()}
    return files | {'data.world': 'false'}


def process(
    module: str,
    argv: list[str],
    *,
    devices: int = 1,
    prefix: Sequence[str] = (),
    flags: str = '',
    stdout: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen:
    """Starts `python -m module` as a user would, with some number of CPU devices.

    Args:
      module: With a command line.
      argv: Its arguments.
      devices: Fake ones.
      prefix: A command that runs the command.
      flags: Of XLA, which count over those of tests.
      stdout: Gets what it prints.
    """
    devices_flag = f'--xla_force_host_platform_device_count={devices}'
    flags = f'{os.environ["XLA_FLAGS"]} {flags} {devices_flag}'
    return subprocess.Popen(
        [*prefix, sys.executable, '-m', module, *argv],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': flags},
        text=True,
        stdout=stdout,
        stderr=subprocess.STDOUT,
    )


class Background:
    """A chain up to PPO-Lagrangian, trained in a process of one device."""

    def __init__(self, configs: pathlib.Path, run: pathlib.Path, world: pathlib.Path):
        self._configs, self._run, self._world = configs, run, world
        self._process = process('beaver_jax.train', self.command(run))

    def command(self, run: pathlib.Path) -> list[str]:
        """Puts the world into a new run directory; the chain's command line there."""
        shutil.copytree(self._world, run / 'world')
        return arguments(self._configs, 'ppo_lag', {'run': run, **ONE_DEVICE})

    def wait(self) -> pathlib.Path:
        """The run, once it is done."""
        finished(self._process)
        return self._run

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def finished(running: subprocess.Popen) -> str:
    """What a process printed, after it ended well."""
    output, _ = running.communicate(timeout=400)
    assert running.returncode == 0, output
    return output


def wait_for(running: subprocess.Popen, what: Callable[[], bool]) -> None:
    """Waits until something holds while a process runs; else fails with its output."""
    deadline = time.monotonic() + 1000
    while running.poll() is None and time.monotonic() < deadline:
        if what():
            return
        time.sleep(0.01)
    pytest.fail(running.communicate()[0])


def wait_for_lines(running: subprocess.Popen, file: pathlib.Path, count: int) -> None:
    """Waits until a file has so many lines; see `wait_for`."""
    wait_for(
        running, lambda: file.is_file() and file.read_bytes().count(b'\n') >= count
    )


def children(parent: int) -> list[int]:
    """Processes that a process has started, oldest first."""
    listed = subprocess.run(
        ['ps', '-o', 'pid=', '--ppid', str(parent)], capture_output=True, text=True
    )
    return sorted(int(line) for line in listed.stdout.split())


def error(main: Any, argv: list[str]) -> str:
    """The one line with which a public command ends."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    line = caught.value.code
    assert isinstance(line, str)
    assert line.startswith('Error: ')
    assert '\n' not in line
    return line


def snapshot(directory: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file below a directory."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(directory.rglob('*'))
        if path.is_file()
    }


def weights(directory: pathlib.Path) -> dict[str, bytes]:
    """The files of an exported model that must not depend on how it was reached."""
    files = ('config.json', 'model.safetensors', 'tokenizer.json')
    return {name: (directory / name).read_bytes() for name in files}


def summary(run: pathlib.Path, stage: str) -> dict[str, Any]:
    """A stage's summary.json."""
    return json.loads((run / stage / 'summary.json').read_text())


def write_rows(path: pathlib.Path, rows: list[Any]) -> pathlib.Path:
    """Writes a jsonl file; a row that is text stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text(''.join(f'{line}\n' for line in lines))
    return path
