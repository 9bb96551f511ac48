"""A stage's directory: whose it is, and whether the stage is done."""

import itertools
import json
import logging
import pathlib
import re
import time
from typing import Any

import jax
import ml_collections

from beaver_jax import config as config_lib
from beaver_jax import distributed
from beaver_jax import layout
from beaver_jax import metrics as metrics_lib
from beaver_jax.stages import inputs

log = logging.getLogger(__name__)

SUMMARY, RESULTS, CARD = layout.SUMMARY, layout.RESULTS, layout.CARD
CONFIG, CHECKPOINTS, PROGRAMS = layout.CONFIG, layout.CHECKPOINTS, layout.PROGRAMS
is_done = layout.is_done
# What may differ between a run and its continuation.
VOLATILE = (
    'if_exists',
    'late_compilation',
    'log.',
    'checkpoint.',
    'watch.',
    'mesh.',
    'data.workers',
    # How a judge is asked, and how much; not what.
    *('judge.key_variable', 'judge.concurrency', 'judge.requests_per_minute'),
    *('judge.timeout', 'judge.attempts', 'judge.backoff'),
    *('judge.max_calls', 'judge.max_total_tokens'),
)
# Values that are paths.
PATHS = re.compile(r'run|base|models|data\..+|(.+\.)?(init|tokenizer)')
IF_EXISTS = ('refuse', 'resume', 'overwrite')


def directory(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Where the stage's results go: <run>/<stage>."""
    return pathlib.Path(config.run) / config.stage


def check(config: ml_collections.ConfigDict) -> bool:
    """Whether the stage is done as its config wants it.

    Raises:
      InputError: Another config has begun the directory and config.if_exists=refuse,
        or if_exists is unknown.
    """
    if config.if_exists not in IF_EXISTS:
        raise inputs.InputError(
            f'config.if_exists={config.if_exists!r}; known: {", ".join(IF_EXISTS)}.'
        )
    path = directory(config)
    if config.if_exists == 'overwrite':
        return False
    differing = changes(config)
    if differing and config.if_exists == 'refuse' and _has_begun(path):
        raise inputs.InputError(f'{path} holds {_told(path, _shown(differing))}')
    return not differing and is_done(path)


def _told(path: pathlib.Path, shown: str) -> str:
    """What a directory that another config has begun holds, and what to do."""
    if (path / RESULTS).is_file():
        return (
            f'an evaluation with another config ({shown}). Choose another '
            '--config.run, or --config.if_exists=overwrite, which moves it aside; '
            'resume does so too, unless the new one has the same models and more.'
        )
    return (
        f'a run with another config ({shown}). Choose another --config.run, go on in '
        'it under this config with --config.if_exists=resume, or move it aside with '
        '--config.if_exists=overwrite.'
    )


def check_seed(path: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a finished input of this run that another seed has made.

    Raises:
      InputError: With another seed other prompts are held out, so that a policy would
        be judged on what its inputs were trained on.
    """
    file = path / CONFIG
    seed = json.loads(file.read_text())['seed'] if file.is_file() else config.seed
    if seed != config.seed:
        raise inputs.InputError(
            f'{path} was trained with seed {seed}, not config.seed={config.seed}; use '
            f'--config.seed={seed} or another --config.run.'
        )


def claim(config: ml_collections.ConfigDict, *, aside: bool = False) -> bool:
    """Makes a stage's directory this config's own; returns whether it is done.

    Where something is there, config.if_exists decides: 'refuse' goes on only with what
    the same config began, 'resume' also with what another one did, and 'overwrite'
    moves it aside.

    Args:
      config: Of the stage.
      aside: Move away what is there in any case.

    Raises:
      InputError: As in `check`; or the directory cannot be written.
    """
    done = distributed.by_first(_claim, config, aside)
    _wait_for(directory(config) / CONFIG)
    return done


def _claim(config: ml_collections.ConfigDict, aside: bool) -> bool:
    path = directory(config)
    if check(config) and not aside:
        return True
    differing = changes(config)
    try:
        if path.exists() and (config.if_exists == 'overwrite' or aside):
            _move_aside(path)
        elif differing and _has_begun(path):
            if any(path.glob(f'{CHECKPOINTS}/*')):
                log.info('%s: goes on with another config: %s', path, _shown(differing))
            for name in (SUMMARY, RESULTS, CARD):
                (path / name).unlink(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        metrics_lib.write_json(path / CONFIG, _flat(config))
    except OSError as error:
        raise inputs.InputError(
            f'{path} cannot be written ({error.strerror}); set --config.run to a '
            'directory with space and permission.'
        ) from error
    return False


def _wait_for(file: pathlib.Path, seconds: float = 60) -> None:
    """Waits for a file of another process: a network's directory may lag behind.

    Raises:
      InputError: It does not appear.
    """
    deadline = time.monotonic() + seconds
    while not file.is_file():
        if time.monotonic() > deadline:
            raise inputs.InputError(
                f'{file}, which process 0 has written, is not to be seen from process '
                f'{jax.process_index()}; set --config.run to a directory that all '
                'hosts share.'
            )
        time.sleep(0.1)


def recorded(path: pathlib.Path, run: str) -> dict[str, Any]:
    """The values by key with which a directory was begun; {} if it was not.

    Args:
      path: Of the stage.
      run: Where its run is now: paths in it are told from there.
    """
    file = path / CONFIG
    values = json.loads(file.read_text()) if file.is_file() else {}
    before = values.get('run', run)
    return {key: _moved(key, value, before, run) for key, value in values.items()}


def _move_aside(path: pathlib.Path) -> None:
    names = (path.with_name(f'{path.name}.old-{i}') for i in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    log.info('%s: moved aside to %s', path, aside)


def _has_begun(path: pathlib.Path) -> bool:
    """Whether there is anything to lose."""
    return (
        is_done(path)
        or (path / metrics_lib.METRICS).is_file()
        or any(path.glob(f'{CHECKPOINTS}/*'))
    )


def _flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A config as JSON gives it back."""
    return json.loads(json.dumps(metrics_lib.jsonable(config_lib.flatten(config))))


def changes(config: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """(old value, new value) by key, where a directory's config is not this one."""
    new, old = _flat(config), recorded(directory(config), config.run)
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(VOLATILE)
    }


def _moved(key: str, value: Any, old_run: str, run: str) -> Any:
    """Paths within a run as they are after the run was moved there."""
    if not isinstance(value, str) or not PATHS.fullmatch(key):
        return value
    return layout.moved(value, old_run, run)


def _shown(differing: dict[str, tuple[Any, Any]]) -> str:
    listed = [f'{key}: {old!r} → {new!r}' for key, (old, new) in differing.items()]
    return ', '.join(listed[:6]) + (' …' if listed[6:] else '')
