"""Commands, options and keys of the pages are those that there are.

Each command is read by the parser of its own program, which ends there; those that
take seconds are run in `documentation_runs_test.py`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import configparser
import functools
import importlib
import inspect
import re
import shutil
import sys
from types import ModuleType
from unittest import mock

import pytest

from beaver_jax import config as config_lib
from beaver_jax import distributed
from tests import documentation

ROOT = documentation.ROOT
CONFIGS = [
    f'{file}:{preset}'
    for file in sorted((ROOT / 'configs').glob('*.py'))
    for preset in ('tiny', 'local', 'llama-7b')
]
# By the heading of their section in docs/reference/commands.md.
PROGRAMS = {
    name: f'beaver_jax.{name}'
    for name in (
        'train',
        'evaluate',
        'evaluate.bigbench',
        'data',
        'plan',
        'export',
        'chat',
        'serve',
        'report',
        'status',
    )
} | {name: name for name in ('launch/local.py', 'launch/tpu_pod.py')}
# Of pytest, for golden and oracle tests; of lm_eval; of benchmarks; and what every
# program takes.
OTHER_OPTIONS = {
    *('--golden', '--oracle-seed'),
    *('--model', '--model_args', '--tasks', '--batch_size', '--apply_chat_template'),
    *('--topology', '--cases'),
    *('--help', '--'),
}
# What reads its own options: lm_eval's are read in tests/parity, which installs it.
OTHERS = ('', 'make', 'pip', 'beaver_jax.evaluate.harness')


class HasRead(Exception):
    """A program has read its command line to the end, and would begin."""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A checkout's configs, with the one that the README tells to write."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    told = documentation.line('README.md', 'config.costs.privacy = ')
    text = (ROOT / 'configs' / 'ppo_lag.py').read_text()
    before, last, after = text.partition("    if preset == 'tiny':")
    mine = f'{before}    {told}\n{last}{after}'
    (tmp_path / 'configs' / 'mine.py').write_text(mine)
    monkeypatch.chdir(tmp_path)
    for name in ('HF_TOKEN', 'WANDB_API_KEY'):  # what --env names must be there
        monkeypatch.setenv(name, 'secret')
    return tmp_path


@pytest.fixture
def read(workplace, monkeypatch) -> Iterator[Callable[[str, Sequence[str]], None]]:
    """Has a program read a command line, and fails if it refuses it."""

    def ended(function):
        def wrapped(*args, **keywords):
            function(*args, **keywords)
            raise HasRead

        return wrapped

    parser = argparse.ArgumentParser
    monkeypatch.setattr(parser, 'parse_args', ended(parser.parse_args))
    monkeypatch.setattr(config_lib, 'from_argv', ended(config_lib.from_argv))
    # Only the benchmark itself needs it.
    for name in ('', '.feature_extraction', '.linear_model'):
        monkeypatch.setitem(sys.modules, f'sklearn{name}', mock.MagicMock())

    def run(name: str, arguments: Sequence[str]) -> None:
        argv = list(arguments)
        monkeypatch.setattr(sys, 'argv', [name, *argv])
        main = program(name).main
        try:
            main(argv) if inspect.signature(main).parameters else main()
        except HasRead:
            if name.startswith('launch/'):
                run('beaver_jax.train', argv[argv.index('--') + 1 :])
        except SystemExit as end:
            assert not end.code, f'{name} refuses {argv}'

    yield run
    sys.modules.pop('benchmarks.preference_baseline', None)


def program(name: str) -> ModuleType:
    """The module that has a program's `main`."""
    module = importlib.import_module(name.removesuffix('.py').replace('/', '.'))
    if hasattr(module, '__path__'):
        return importlib.import_module(f'{module.__name__}.__main__')
    return module


def options(name: str, capsys) -> set[str]:
    """The options of a program beside the keys of a config, from its help."""
    found = {f'--{name}' for name in distributed.OPTIONS}
    module = program(name)
    found &= found if hasattr(module, 'distributed') else set()
    with pytest.raises(SystemExit):
        module.main(['--help'])
    listed = re.findall(r'^  (?:-\w, )?(--[\w-]+)', capsys.readouterr().out, re.M)
    return found | set(listed) - {'--help', '--config'}


@functools.cache
def keys_of(path: str) -> dict[str, set[str]]:
    """Keys and groups of a config."""
    keys = config_lib.flatten(config_lib.load(path))
    parts = [key.split('.') for key in keys]
    groups = {'.'.join(p[:depth]) for p in parts for depth in range(1, len(p))}
    return {'keys': set(keys), 'groups': groups}


def unknown_keys(texts: Sequence[str]) -> list[str]:
    """Those of KEY, KEY=VALUE or GROUP that no config takes; capitals are any value."""
    return [text for text in texts if not any(takes(path, text) for path in CONFIGS)]


def takes(path: str, text: str) -> bool:
    """Whether a config has a key, which may stand with a value, or a group."""
    key, equals, value = text.replace('<name>', 'harm').partition('=')
    found = keys_of(path)
    if not equals or re.fullmatch(r'[A-Z_]+', value) or key not in found['keys']:
        return key in found['keys'] or (not equals and key in found['groups'])
    try:
        config_lib.load(path, {key: value})
    except config_lib.ConfigError:
        return False
    return True


@pytest.mark.parametrize('page', documentation.PAGES, ids=documentation.name)
def test_every_command_is_read_by_its_program(page, read):
    for command in documentation.commands(page):
        if command.program not in OTHERS:
            read(command.program, command.arguments)


@pytest.mark.parametrize(
    'program, arguments',
    [
        ('beaver_jax.train', ['--config=configs/ppo_lag.py', '--config.sead=1']),
        ('beaver_jax.train', ['--config=configs/ppo_lag.py', '--config.seed=one']),
        ('beaver_jax.train', ['--config=configs/ppo_lag.py:big']),
        ('beaver_jax.plan', ['--config=configs/ppo_lag.py', '--device=8']),
        ('beaver_jax.chat', ['runs/tiny/ppo_lag', '--temprature', '0']),
        ('beaver_jax.export', ['runs/tiny/ppo_lag']),
        ('beaver_jax.serve', ['--slots', 'many', 'runs/tiny/ppo_lag']),
        ('launch/local.py', ['--processes=2', '--', '--config=configs/ppo_leg.py']),
        ('benchmarks.preference_baseline', ['--need', 'wiser', '--rows', 'x']),
    ],
)
def test_a_wrong_command_is_noticed(program, arguments, read):
    with pytest.raises(AssertionError, match='refuses'):
        read(program, arguments)


@pytest.mark.usefixtures('workplace')
def test_every_option_key_and_config_in_a_text_exists(capsys):
    ours = OTHER_OPTIONS.union(*(options(name, capsys) for name in PROGRAMS.values()))
    wrong = {}
    for page in documentation.PAGES:
        words = documentation.words(page)
        flags = [word.partition('=')[0] for word in words if word.startswith('--')]
        found = [flag for flag in flags if not flag.startswith('--config')]
        found = [flag for flag in found if flag not in ours]
        keys = [word.removeprefix('--') for word in words]
        found += unknown_keys([key[len('config.') :] for key in keys if is_key(key)])
        if found:
            wrong[documentation.name(page)] = found
        for word in words:
            if re.match(r'--config=[\w/]+\.py', word):
                config_lib.load(word.partition('=')[2])
        for command in documentation.inline(page):
            if command.program.startswith('beaver_jax'):
                assert program(command.program).main
    assert not wrong


def is_key(text: str) -> bool:
    """Whether `config.x` is a key, or a function of the module or a file."""
    name = re.match(r'config\.(\w+)', text)
    if name is None or text.startswith('config.KEY'):
        return False
    return not hasattr(config_lib, name[1]) and name[1] not in ('json', 'py')


def test_an_option_or_key_that_does_not_exist_is_noticed():
    right = ['seed', 'data', 'costs.<name>.output', 'rollout.slots=N', 'seed=1']
    wrong = ['sead', 'datas', 'costs.<name>.outputs', 'rollout.slots=many', 'sead=N']
    assert unknown_keys([*right, *wrong]) == wrong


@pytest.mark.parametrize('section', PROGRAMS)
def test_the_page_of_commands_has_every_option(section, capsys):
    text = (ROOT / 'docs' / 'reference' / 'commands.md').read_text()
    body = re.search(rf'^## {section}\n(.*?)(?=^## |\Z)', text, re.M | re.S)
    assert body is not None
    listed = re.findall(r'`(--[\w-]+)`', body[1])
    assert sorted(listed) == sorted(options(PROGRAMS[section], capsys))


def test_make_and_pip_are_asked_for_what_there_is():
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^(\w+):', makefile, re.M))
    variables = set(re.findall(r'^(\w+) \?=', makefile, re.M))
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    extras = {f'.[{name}]' for name in setup['options.extras_require']}
    for command in map_commands('make'):
        for argument in command.arguments:
            name, equals, value = argument.partition('=')
            assert name in (variables if equals else targets), command
            for path in re.findall(r'tests/[\w/.]+', value):
                assert (ROOT / path).exists(), command
    for command in map_commands('pip'):
        assert command.arguments[:2] == ('install', '-e'), command
        assert command.arguments[2] in extras, command


def map_commands(program: str) -> list[documentation.Command]:
    """All commands of a program, those in texts too."""
    return [
        command
        for page in documentation.PAGES
        for command in [*documentation.commands(page), *documentation.inline(page)]
        if command.program == program
    ]
