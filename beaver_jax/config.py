"""Config files and the command line that selects and changes them.

A config file is plain Python. Its docstring is the command and what to expect of it;
its function `get_config(preset='tiny')` returns an `ml_collections.ConfigDict` with
every default written out, and raises `unknown_preset(preset, known)` for a preset that
it does not have. On the command line:

    --config=FILE[:PRESET][,KEY=VALUE...] [--config.KEY=VALUE ...] [--help]

Keys are dotted paths into the config; a value has the type of the default it replaces.
Every mistake is a `ConfigError` that names the value and the nearest right one.
"""

import argparse
import ast
from collections.abc import Iterable, Mapping, Sequence
import difflib
import functools
import importlib.util
import operator
import pathlib
import shlex
import sys
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from beaver_jax import meanings

USAGE = '--config=FILE[:PRESET][,KEY=VALUE...] [--config.KEY=VALUE ...] [--help]'
FOLDER = pathlib.Path('configs')  # where a mistyped file name is looked for

_WORDS = {'true': True, 'false': False, 'none': None, 'null': None}
_EXPECTED = {bool: 'true or false', int: 'a whole number', float: 'a number'}


class ConfigError(ValueError):
    """A file, preset, key or value that is not right; the message says what is."""


def from_argv(argv: Sequence[str]) -> ConfigDict:
    """The config that a command line asks for.

    Args:
      argv: Arguments without the program's name, as in `sys.argv[1:]`. Of two values
        for one key the later counts, and `--config.KEY` counts over FILE:PRESET,KEY.

    Returns:
      The config, locked.

    Raises:
      SystemExit: After `--help` (code 0), or with one line on stderr (code 2).
    """
    try:
        path, overrides, wants_help = _read_arguments(argv)
        if not wants_help:
            return load(path, overrides)
        print(describe(path, overrides) if path else f'Usage: {USAGE}; {_files()}')
    except ConfigError as error:
        print(f'Error: {error}', file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(0)


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """Reads the options of a command beside its config, with `parse_known_args`.

    Args:
      module: Of the command, as after `python -m`.
      about: Its docstring.
    """
    return argparse.ArgumentParser(
        prog=f'python -m {module}',
        allow_abbrev=False,
        usage='%(prog)s [options] --config=FILE[:PRESET] [--config.KEY=VALUE ...]',
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='The keys of a config: python -m beaver_jax.train --config=FILE --help',
    )


def folder(argv: Sequence[str]) -> str:
    """The folder of the config file that a valid command line names."""
    file, _, _ = _read_arguments(argv)
    return str(pathlib.Path(_split(file)[0]).parent)


def load(path: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """Loads a config file: `load('configs/ppo_lag.py:tiny,seed=1', {'run': 'runs/x'})`.

    Args:
      path: FILE[:PRESET][,KEY=VALUE...]; without a preset, the file's default one.
      overrides: Values by dotted key, as text; applied after those in `path`.

    Returns:
      The config, locked.

    Raises:
      ConfigError: If the file, the preset or a key does not exist, or a value has not
        the type of its default.
    """
    file, argument = _split(path)
    preset, changes = parse(argument)
    config = _get_config(_import(file), preset, file)
    for key, text in {**changes, **(overrides or {})}.items():
        _override(config, key, text)
    return config.lock()


def parse(argument: str) -> tuple[str, dict[str, str]]:
    """Splits 'tiny,seed=3,actor.lr=1e-4' into ('tiny', {'seed': '3', ...}).

    The preset may be missing (then it is ''). Commas inside brackets do not split.

    Raises:
      ConfigError: If a part after the preset is not KEY=VALUE.
    """
    preset, *changes = _split_at_commas(argument)
    if '=' in preset:
        preset, changes = '', [preset, *changes]
    for change in changes:
        if not change.partition('=')[0] or '=' not in change:
            raise ConfigError(
                f'{change!r} in {argument!r} is not KEY=VALUE; write '
                'FILE:PRESET,KEY=VALUE,...'
            )
    pairs = (change.partition('=') for change in changes)
    return preset, {key.strip(): value.strip() for key, _, value in pairs}


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Every value of a config by its dotted key."""
    leaves: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            leaves |= {f'{name}.{key}': leaf for key, leaf in flatten(value).items()}
        else:
            leaves[name] = value
    return leaves


def describe(path: str, overrides: Mapping[str, str] | None = None) -> str:
    """A config file's help: its docstring, and every key, its value and its meaning.

    Args:
      path: As in `load`.
      overrides: As in `load`.

    Returns:
      Lines of text; those of keys can be pasted into a shell.

    Raises:
      ConfigError: As in `load`.
    """
    keys = []
    for key, value in flatten(load(path, overrides)).items():
        option = f'  --config.{key}={shlex.quote(_write(value))}'
        meaning = meanings.of(key)
        keys.append(f'{option:<44}  # {meaning}' if meaning else option)
    text = _import(_split(path)[0]).__doc__ or path
    return '\n'.join(
        [text.strip(), '', f'Usage: {USAGE}', '', f'Keys of {path}:', *keys]
    )


def unknown_preset(name: str, known: Iterable[str]) -> ConfigError:
    """What `get_config` raises for a preset that it does not have.

    Args:
      name: The preset that was asked for.
      known: Names of the file's presets; a dict by name will do.

    Returns:
      The error, to be raised.
    """
    known = list(known)
    listed = ', '.join(known)
    return ConfigError(
        f'preset {name!r} does not exist;{nearest(name, known)} there are {listed}.'
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """' did you mean A or B?' for the known names most like `name`; '' if none is."""
    close = difflib.get_close_matches(name, list(known))
    return f' did you mean {" or ".join(close)}?' if close else ''


def _read_arguments(argv: Sequence[str]) -> tuple[str, dict[str, str], bool]:
    """FILE:PRESET, overrides, and whether help is wanted. Takes --x=1 and --x 1."""
    path, overrides, wants_help = '', {}, False
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition('=')
        if argument in ('--help', '-h'):
            wants_help = True
            continue
        if name != '--config' and not name.startswith('--config.'):
            hint = nearest(name.partition('.')[0], ['--config', '--help'])
            raise ConfigError(f'argument {argument!r} is unknown;{hint} usage: {USAGE}')
        if not equals:
            value = next(arguments, '--')
            if value.startswith('--'):
                raise ConfigError(f'{name} has no value; write {name}=VALUE.')
        if name == '--config':
            path = value
        else:
            overrides[name.removeprefix('--config.')] = value
    if not path and not wants_help:
        raise ConfigError(f'--config=FILE is missing; {_files()}')
    return path, overrides, wants_help


def _split(path: str) -> tuple[str, str]:
    """FILE and the rest; FILE,KEY=VALUE changes the default preset."""
    at = min((path.index(mark) for mark in ':,' if mark in path), default=len(path))
    return path[:at], path[at + 1 :]


def _split_at_commas(text: str) -> list[str]:
    parts, depth = [''], 0
    for character in text:
        depth += (character in '([') - (character in ')]')
        if character == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _import(file: str) -> ModuleType:
    """Runs a config file as a module that no import finds."""
    path = pathlib.Path(file)
    if path.suffix != '.py' or not path.is_file():
        folders = dict.fromkeys((path.parent, FOLDER))
        files = {near.stem: near for folder in folders for near in folder.glob('*.py')}
        close = [
            str(files[stem]) for stem in difflib.get_close_matches(path.stem, files)
        ]
        hint = f'did you mean {" or ".join(close)}?' if close else _files()
        raise ConfigError(f'config file {file!r} does not exist; {hint}')
    spec = importlib.util.spec_from_file_location(f'{path.stem}_config', path)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _files() -> str:
    files = ', '.join(sorted(str(file) for file in FOLDER.glob('*.py')))
    if not files:
        return f'there is no {FOLDER}/ here: run from the root of the repository.'
    return f'the configs are {files}.'


def _get_config(module: ModuleType, preset: str, file: str) -> ConfigDict:
    if not hasattr(module, 'get_config'):
        raise ConfigError(f'{file} has no function get_config(preset); add one.')
    try:
        config = module.get_config(preset) if preset else module.get_config()
    except ConfigError as error:
        raise ConfigError(f'{file}: {error}') from None
    if not isinstance(config, ConfigDict):
        returned = type(config).__name__
        raise ConfigError(
            f'{file}: get_config returned {returned}; return a ConfigDict.'
        )
    return config


def _override(config: ConfigDict, key: str, text: str) -> None:
    """Replaces one value by text, read with the type of the value it replaces."""
    leaves = flatten(config)
    if key not in leaves:
        raise ConfigError(f'config.{key} {_why_not(key, list(leaves))}')
    *groups, name = key.split('.')
    group = functools.reduce(operator.getitem, groups, config)
    default, kind = leaves[key], group.get_type(name)
    try:
        group[name] = _convert(text, default, kind)
    except (TypeError, ValueError):
        expected = _EXPECTED.get(kind, f'a {kind.__name__} like the default')
        raise ConfigError(
            f'config.{key}={text!r} is not {expected}; the default is {default!r}.'
        ) from None


def _why_not(key: str, leaves: list[str]) -> str:
    """Names the keys below a group, of the same last word, or spelled alike."""
    below = [f'config.{leaf}' for leaf in leaves if leaf.startswith(f'{key}.')]
    if below:
        return f'is a group; set one of {", ".join(below)}.'
    word = key.rpartition('.')[2]
    same = [leaf for leaf in leaves if leaf.rpartition('.')[2] == word]
    close = difflib.get_close_matches(key, same or leaves, cutoff=0.0 if same else 0.6)
    if not close:
        return 'does not exist; --help lists every key.'
    names = ' or '.join(f'config.{leaf}' for leaf in close)
    return f'does not exist; did you mean {names}?'


def _convert(text: str, default: Any, kind: type) -> Any:
    """Reads text as one type. Raises ValueError where it is no such thing."""
    if default is None and text.lower() in ('none', 'null'):
        return None
    if kind in (int, float, str):
        return kind(text)
    if kind in (tuple, list):
        return kind(_convert_items(text, default or ()))
    value = _literal(text)
    if kind is bool and value in (0, 1):
        return bool(value)
    if default is not None and not isinstance(value, kind):
        raise ValueError
    return value


def _convert_items(text: str, default: Sequence[Any]) -> list[Any]:
    """Reads '(1, 2)', '[1, 2]' or '1,2'; items have the type of the default's."""
    inner = text.strip().removeprefix('(').removeprefix('[')
    inner = inner.removesuffix(')').removesuffix(']')
    items = [item for item in _split_at_commas(inner) if item]
    if len({type(item) for item in default}) != 1:
        return [_literal(item) for item in items]
    kind = type(default[0])
    return [_convert(item.strip('\'"'), default[0], kind) for item in items]


def _write(value: Any) -> str:
    """A value as `_convert` reads it."""
    return ','.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _literal(text: str) -> Any:
    """A number, bool, None, list or text, as Python or JSON writes it."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return tuple(value) if isinstance(value, list) else value
