"""Stages: the only readers of a config. They build models, steps and data.

A stage's inputs are directories. One that another stage of the same run and preset
makes is trained first where it is missing: `chain` finds the order.
"""

from collections.abc import Callable, Iterator, Sequence
import logging
import os
import pathlib
from typing import Any

from jax.sharding import Mesh
import ml_collections

from beaver_jax import config as config_lib
from beaver_jax.stages import directories
from beaver_jax.stages import inputs
from beaver_jax.stages import ppo_lag
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import preference
from beaver_jax.stages import records
from beaver_jax.stages import sft
from beaver_jax.stages import shared_base
from beaver_jax.stages import stage as stage_lib
from beaver_jax.stages import targets

log = logging.getLogger(__name__)

REINFORCED = ('ppo', 'ppo_lag', 'ppo_reward_shaping')
BUILDERS: dict[str, Callable[[ml_collections.ConfigDict, Mesh], stage_lib.Stage]] = {
    'sft': sft.build,
    'reward': preference.build,
    'cost': preference.build,
    **dict.fromkeys(REINFORCED, ppo_lag.build),
}
# What can be said of a config before anything is read.
CHECKS: dict[str, Callable[[ml_collections.ConfigDict, Mesh], Any]] = {
    'sft': sft.check,
    'reward': preference.check,
    'cost': preference.check,
    **dict.fromkeys(REINFORCED, ppo_settings.check),
}
# Reads what a stage learns from, and raises what is wrong with it.
ROWS: dict[str, Callable[[ml_collections.ConfigDict], Any]] = {
    'sft': sft.rows,
    'reward': preference.rows,
    'cost': preference.rows,
    **dict.fromkeys(REINFORCED, ppo_lag.rows),
}
POLICIES = ('sft', *REINFORCED)
# What the stages of one run have in common, where they have it at all, and a missing
# input's config inherits.
SHARED = ('run', 'base', 'seed', 'mesh', 'data', 'log', 'dtype', 'lora')
LENGTHS = ('max_length', 'max_prompt_length', 'max_response_length')
# The uses of rows that a stage reads.
READS = {'sft': ('sft',), 'reward': ('reward_pairs',), 'cost': ('cost_pairs',)}
READS |= dict.fromkeys(REINFORCED, ('prompts',))


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> stage_lib.Stage:
    """Builds the stage that config.stage names."""
    records.prepare_world(config)
    return BUILDERS[config.stage](config, mesh)


def check_trains(config: ml_collections.ConfigDict) -> None:
    """Refuses a config that trains nothing.

    Raises:
      InputError: Such as that of the evaluation.
    """
    if config.stage not in BUILDERS:
        raise inputs.InputError(
            f'config.stage={config.stage!r} trains nothing: its command is python -m '
            f'beaver_jax.{config.stage}.'
        )


def chain(config: ml_collections.ConfigDict, folder: str) -> list[Any]:
    """The stages to run for a config, inputs first, without those that are done.

    Args:
      config: Of the stage that is wanted.
      folder: Where the config files are; the input `<run>/sft` is made by `sft.py`.
    """
    check_trains(config)
    ordered: list[ml_collections.ConfigDict] = []
    _visit(config, folder, ordered)
    return ordered


def _visit(config, folder: str, ordered: list) -> None:
    for _, path in _inits(config):
        stage = pathlib.Path(path).name
        made_here = pathlib.Path(path) == pathlib.Path(config.run) / stage
        known = [other.stage for other in ordered]
        if not made_here or stage not in BUILDERS or stage in known:
            continue
        if directories.is_done(pathlib.Path(path)):
            directories.check_seed(pathlib.Path(path), config)
            continue
        _visit(sibling(config, folder, stage), folder, ordered)
    ordered.append(config)


def _inits(config) -> Iterator[tuple[str, str]]:
    for key, value in config_lib.flatten(config).items():
        if key.rpartition('.')[2] == 'init' and value:
            yield key, value


def check(wanted: Sequence[ml_collections.ConfigDict], mesh: Mesh) -> None:
    """Refuses a chain that would stop in its midst, before it starts.

    Raises:
      InputError: A setting that is wrong, an input model that is neither there nor
        made by the chain, a directory that another config has begun.
      ValueError: A batch that does not fit the mesh, a file that is missing.
    """
    made = [directories.directory(config) for config in wanted]
    pending = [config for config in wanted if not directories.check(config)]
    for config in pending:
        try:
            _check(config, mesh, made)
            # Those of the first stage are read at once.
            if config is not wanted[0] and not config.data.world:
                ROWS[config.stage](config)
        except ValueError as error:
            if config is wanted[-1]:
                raise
            raise inputs.InputError(f'{error} {_why(config, wanted)}') from error
    targets.check(pending)


def _check(
    config: ml_collections.ConfigDict, mesh: Mesh, made: Sequence[pathlib.Path]
) -> None:
    inputs.check_loop(config)
    CHECKS[config.stage](config, mesh)
    if not config.data.world:
        records.check_specs(config, READS[config.stage])
        if config.stage in REINFORCED:
            if config.ppo.ptx_coeff > 0:
                records.check_specs(config, ('sft',))
            # The evaluation's, at the very end.
            records.test_prompts(config)
            named = [f'{name}_pairs' for name in preference.KINDS]
            records.check_tests(config, named)
    for name, path in _inits(config):
        if pathlib.Path(path) not in made:
            named = path == config.base and config.stage == 'sft'
            inputs.model_directory('base' if named else name, path)
    if config.stage in REINFORCED:
        shared_base.check_inputs(config, made)


def _why(config: ml_collections.ConfigDict, wanted: Sequence[Any]) -> str:
    """Why a stage that was not asked for is to be trained, and how to do without."""
    made = directories.directory(config)
    user, key = next(
        (other.stage, name)
        for other in reversed(wanted)
        for name, path in _inits(other)
        if pathlib.Path(path) == made
    )
    return (
        f'({user} needs {made}, which is not trained yet, and so {config.stage} comes '
        f'first; to do without name a model that you have, --config.{key}=DIRECTORY.)'
    )


def sibling(
    config: ml_collections.ConfigDict, folder: str, stage: str
) -> ml_collections.ConfigDict:
    """The config of another stage of the same run and preset."""
    file = os.path.join(folder, f'{stage}.py')
    other = config_lib.load(f'{file}:{config.preset}')
    with other.unlocked():
        for key in (*SHARED, *LENGTHS):
            if key not in config or key not in other:
                continue
            # Resolved: a reference of ours would follow changes of our config.
            value = config[key]
            if isinstance(value, ml_collections.ConfigDict):
                # Leaf by leaf, so that what refers to one follows it.
                other[key].update(value.copy_and_resolve_references())
            else:
                other[key] = value
        if 'max_length' in other and 'max_response_length' in config:
            # What reinforcement learning scores is as long as what was learnt before.
            other.max_length = config.max_prompt_length + config.max_response_length
        if stage == 'sft' and not other.model.init and other.lora.rank:
            log.info(
                'sft learns in full: without config.base there is nothing to adapt'
            )
            other.lora.rank = 0
        shares = config.stage in REINFORCED and config.share_base
        if shares and stage in preference.KINDS:
            # What is to stand on the actor's base must be adapters, as its critic is.
            other.model.lora = config.critic.lora.copy_and_resolve_references()
            other.model.init = config.actor.init
    return other


def evaluation(
    config: ml_collections.ConfigDict, folder: str
) -> ml_collections.ConfigDict:
    """The config that compares the policies of a run, after one was trained.

    Those models score that trained it. Another cost of `evaluate.py` is measured only
    where the run has a model of it, as plain PPO needs none. One that the run holds is
    made anew, or moved aside if the new one does not cover it.
    """
    other = sibling(config, folder, 'evaluate')
    start = pathlib.Path(config.actor.init)
    with other.unlocked():
        for name in [name for name in other.costs if name not in config.costs]:
            if not directories.is_done(pathlib.Path(other.costs[name].init)):
                del other.costs[name]
        other.policy.dtype = config.actor.dtype
        other.reward = config.reward.copy_and_resolve_references()
        for name, cost in config.costs.items():
            other.costs[name] = cost.copy_and_resolve_references()
            # Of no account where nothing is trained.
            with other.costs[name].unlocked():
                other.costs[name].threshold = other.costs[name].shaping = None
        if start != pathlib.Path(config.run) / 'sft':
            trained = {
                name: path
                for name in REINFORCED
                if directories.is_done(path := pathlib.Path(config.run) / name)
            }
            found = {other.baseline: start, **trained}
            other.models = ','.join(f'{name}={path}' for name, path in found.items())
        other.if_exists = 'resume'
    return other
