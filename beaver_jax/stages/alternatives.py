"""Changes of a config that need less memory, for a plan that does not fit."""

from collections.abc import Iterator
import math
from typing import Any

from jax.sharding import Mesh
import ml_collections

from beaver_jax import config as config_lib
from beaver_jax.stages import inputs

RANK = 16
Changes = dict[str, Any]  # values by dotted key


def of(config: ml_collections.ConfigDict, mesh: Mesh) -> Iterator[Changes]:
    """Changes to plan, those first that change the least of what is learnt.

    Args:
      config: Of a stage.
      mesh: The one that it asks for.
    """
    small = _smaller_parts(config, mesh)
    sharded = _sharded(mesh)
    adapters, shared = _adapters(config)
    few = {f'{"actor" if "actor" in config else "model"}.quantize': 'int8'}
    tried: list[Changes] = []
    for changes in (
        small,
        small | sharded,
        small | sharded | _half_the_rows(config, mesh),
        small | sharded | adapters,
        small | sharded | adapters | shared,
        small | sharded | adapters | shared | few,
    ):
        changed = _changed(config, changes)
        if changed and changed not in tried:
            tried.append(changed)
            yield changed


def apply(
    config: ml_collections.ConfigDict, changes: Changes
) -> ml_collections.ConfigDict:
    """A copy of the config with the changes."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(changes)
    return copy


def _changed(config, changes: Changes) -> Changes:
    now = config_lib.flatten(config)
    return {key: value for key, value in changes.items() if now[key] != value}


def _devices(mesh: Mesh) -> int:
    return mesh.shape['data'] * mesh.shape['fsdp']


def _smaller_parts(config, mesh: Mesh) -> Changes:
    """Recomputed activations, and one row of a device at a time."""
    devices = _devices(mesh)
    if 'actor' not in config:
        return {'model.remat': 'full', 'parts': config.batch_size // devices}
    rows = config.rollout.prompts * config.rollout.samples_per_prompt
    return {
        'actor.remat': 'full',
        'critic.remat': 'full',
        'ppo.parts': rows // config.ppo.minibatches // devices,
        'rollout.chunks': rows // devices,
    }


def _sharded(mesh: Mesh) -> Changes:
    """Every device holds a part of every parameter."""
    tensor = mesh.shape['tensor']
    return {'mesh.data': 1, 'mesh.fsdp': mesh.size // tensor, 'mesh.tensor': tensor}


def _half_the_rows(config, mesh: Mesh) -> Changes:
    """Fewer rows at once, as far as they still divide."""
    key = 'rollout.prompts' if 'actor' in config else 'batch_size'
    count = config.rollout.prompts if 'actor' in config else config.batch_size
    unit = _devices(mesh)
    if 'actor' in config:
        unit = math.lcm(unit, unit * config.ppo.minibatches)
    if count % (2 * unit):
        return {}
    changes = {key: count // 2}
    parts = _smaller_parts(apply(config, changes), mesh)
    return changes | parts


def _adapters(config) -> tuple[Changes, Changes]:
    """Adapters alone learn; and all models stand on one base."""
    if 'actor' not in config:
        return {'model.lora.rank': config.model.lora.rank or RANK}, {}
    adapters = {
        f'{name}.lora.rank': config[name].lora.rank or RANK
        for name in ('actor', 'critic')
    }
    # What then stands on the actor's base has its bits.
    adapters['reference.quantize'] = 'none'
    names = ('critic', *inputs.scorers(config))
    shared = {f'{name}.quantize': 'none' for name in names}
    return adapters, shared | {'share_base': True}
