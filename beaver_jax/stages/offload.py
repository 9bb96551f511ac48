"""Models and optimizer states that wait for their phase in the host's memory.

A rollout needs the actor alone, scoring no optimizer, an update no frozen model. What
a phase does not need is on the host (`config.offload`), and is copied to the devices
when its turn comes.
"""

import dataclasses
from typing import Any

import jax

from beaver_jax.stages import inputs
from beaver_jax.stages import ppo_models
from beaver_jax.steps import ppo_lag

HOST = 'pinned_host'


def check() -> None:
    """Refuses a platform whose devices cannot reach the host's memory.

    Raises:
      InputError: It is such a platform.
    """
    device = jax.local_devices()[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST not in kinds:
        raise inputs.InputError(
            f'config.offload=True: {device.device_kind} has memory of kinds '
            f'{", ".join(kinds)}, not {HOST}; leave it False.'
        )


def park_models(loaded: ppo_models.Loaded) -> ppo_models.Loaded:
    """With all that is frozen on the host, but for what the actor stands on."""
    bases = loaded.bases()
    keep = jax.tree.leaves(bases['actor'])
    frozen, bases = _moved((loaded.frozen, bases), HOST, keep)

    def over(learning, base):
        # What it learns is in the state, which may be donated by now.
        return dataclasses.replace(learning, params={}, base=base)

    return dataclasses.replace(
        loaded,
        frozen=frozen,
        actor=over(loaded.actor, bases['actor']),
        reward_critic=over(loaded.reward_critic, bases['reward_critic']),
        cost_critics={
            name: over(one, bases['cost_critics'][name])
            for name, one in loaded.cost_critics.items()
        },
    )


def park(state: ppo_lag.PPOLagState) -> ppo_lag.PPOLagState:
    """With all that learns on the host, but for the actor's parameters."""
    return _moved(state, HOST, jax.tree.leaves(state.actor.params))


def fetch(tree: Any) -> Any:
    """On the devices; what is there already stays as it is."""
    return _moved(tree, 'device', ())


def _moved(tree: Any, kind: str, keep: Any) -> Any:
    """Leaves in a kind of memory, but those to keep; one leaf twice is one copy."""
    kept = {id(leaf) for leaf in keep}
    leaves, structure = jax.tree.flatten(tree)
    chosen = {
        id(leaf): leaf
        for leaf in leaves
        if id(leaf) not in kept and leaf.sharding.memory_kind != kind
    }
    targets = [leaf.sharding.with_memory_kind(kind) for leaf in chosen.values()]
    copies = jax.device_put(list(chosen.values()), targets)
    moved = dict(zip(chosen, copies, strict=True))
    return jax.tree.unflatten(structure, [moved.get(id(leaf), leaf) for leaf in leaves])
