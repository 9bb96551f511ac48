"""The rooms' order: a module imports only from rooms with a lower number."""

import ast
from collections.abc import Iterator
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'beaver_jax'

# The first name after `beaver_jax.` and the number of its room.
ROOMS = {
    'types': 0,
    'meanings': 0,
    'layout': 0,
    'config': 1,
    'fragments': 0,
    'compilation': 1,
    'machine': 1,
    'distributed': 1,
    'interrupts': 1,
    'watch': 1,
    'heartbeats': 2,
    'journal': 2,
    'terminal': 1,
    'data': 1,
    'models': 1,
    'losses': 1,
    'sharding': 1,
    'metrics': 1,
    'multiplier': 2,
    'optim': 2,
    'checkpoint': 3,
    'checksums': 2,
    'integrity': 2,
    'scoring': 2,
    'steps': 3,
    'rollout': 3,
    'stages': 4,
    'chat': 5,
    'export': 5,
    'plan': 5,
    'report': 5,
    'status': 5,
    # Ends with the report's table.
    'evaluate': 6,
    # Ends a run with evaluation and report, so it stands above them.
    'train': 7,
    # Rates votes as evaluation does.
    'serve': 7,
}

# A package's `__main__` is an entry point, whatever its room.
ENTRY = 6

# Never imported by the package: private or deprecated, or not a dependency.
FORBIDDEN = ('clu', 'flax.training', 'jax._src', 'tensorflow', 'torch')


def imports(source: str, package: str) -> Iterator[str]:
    """Dotted names that a module of `package` imports, as deep as they are written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: len(package.split('.')) + 1 - node.level]
            base = [*(above if node.level else []), *filter(None, [node.module])]
            yield from ('.'.join([*base, alias.name]) for alias in node.names)


def room(name: str) -> str | None:
    """The room of a dotted name; '' of the package itself, None of other packages."""
    package, _, rest = name.partition('.')
    return rest.partition('.')[0] if package == PACKAGE else None


def within(name: str, package: str) -> bool:
    return f'{name}.'.startswith(f'{package}.')


def violations(module: str, source: str, package: str) -> list[str]:
    """What a module may not import, one sentence each."""
    here = room(module)
    if here not in ROOMS:
        return [f'{module} has no room: add {here!r} to ROOMS in tests/rooms_test.py']
    mine = ROOMS[here]
    if module.endswith('.__main__'):
        mine = max(mine, ENTRY)
    found = []
    for name in imports(source, package):
        there = room(name)
        if there is not None and there != here and ROOMS.get(there, 99) >= mine:
            number = ROOMS.get(there, 'unknown')
            found.append(f'{module} ({mine}) imports {name} ({number})')
        if any(within(name, other) for other in FORBIDDEN):
            found.append(f'{module} imports {name}')
        if within(name, 'flax.linen') and here != 'models':
            found.append(f'{module} imports {name}; only models/ may')
    return found


def modules() -> Iterator[tuple[str, pathlib.Path, str]]:
    """Name, file and package of every module but the package's own __init__."""
    for path in sorted((ROOT / PACKAGE).rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        package = '.'.join(parts[:-1])
        name = package if parts[-1] == '__init__' else '.'.join(parts)
        if name != PACKAGE:
            yield name, path, package


def test_every_module_keeps_to_its_room():
    found = [
        violation
        for name, path, package in modules()
        for violation in violations(name, path.read_text(encoding='utf-8'), package)
    ]
    assert not found, '\n'.join(found)


def test_the_package_itself_imports_no_room():
    source = (ROOT / PACKAGE / '__init__.py').read_text(encoding='utf-8')
    assert not [name for name in imports(source, PACKAGE) if room(name) is not None]


def test_config_files_import_only_config_and_fragments():
    found = [
        f'{path.name} imports {name}'
        for path in sorted((ROOT / 'configs').glob('*.py'))
        for name in imports(path.read_text(encoding='utf-8'), 'configs')
        if room(name) not in (None, 'config', 'fragments')
    ]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    'source',
    [
        'from beaver_jax import types',
        'from beaver_jax.models import transformer',
        'from beaver_jax.steps import state',  # its own room
        'from . import state',
        'from ..models import score',
        'import beaver_jax.losses.ppo as ppo',
        'import torchvision',  # not torch
        'from flax import struct',
    ],
)
def test_lower_rooms_and_the_own_room_may_be_imported(source):
    assert violations('beaver_jax.steps.sft', source, 'beaver_jax.steps') == []


@pytest.mark.parametrize(
    'source',
    [
        'from beaver_jax import rollout',  # the same number
        'from beaver_jax.rollout import generate',
        'from .. import stages',
        'from ..rollout.generate import generate',
        'import beaver_jax.train',
        'import beaver_jax',
        'from beaver_jax import attic',  # no such room
        'def step():\n    from beaver_jax import stages',
        'from flax import linen as nn',
        'import flax.linen',
        'from flax.linen import Module',
        'from flax.training import train_state',
        'from jax._src import core',
        'import torch.nn',
        'from tensorflow import data',
        'from clu import metrics',
    ],
)
def test_all_other_imports_are_found(source):
    assert len(violations('beaver_jax.steps.sft', source, 'beaver_jax.steps')) == 1


def test_models_may_import_linen():
    source = 'from flax import linen as nn'
    assert violations('beaver_jax.models.score', source, 'beaver_jax.models') == []


def test_a_module_without_a_room_is_told_to_get_one():
    (found,) = violations('beaver_jax.attic', '', 'beaver_jax')
    assert "add 'attic' to ROOMS" in found
