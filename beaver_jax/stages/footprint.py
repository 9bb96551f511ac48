"""Bytes per device of a stage, before anything is allocated.

Parameters, gradients, optimizer states and the KV cache follow from shapes and
sharding rules. Activations are what XLA needs beside them in each role's own programs
(`own_programs`). What is held at most comes from programs of several roles, which XLA
overlaps (`whole_programs`).
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax.stages import own_programs
from beaver_jax.stages import roles as roles_lib
from beaver_jax.stages import whole_programs


@dataclasses.dataclass
class Footprint:
    """Bytes per device of one role.

    Attributes:
      role: Its name.
      parameters: What it adds to memory; 0 where it stands on another's.
      optimizer: Its moments and counters.
      gradients: During its update.
      cache: Keys and values of a rollout.
      activations: The most that any of its programs needs beside all of these.
      phases: Temporary bytes of its own programs ('rollout', 'scoring', 'update'):
        gradients, cache and activations together, as XLA shares them out.
    """

    role: str
    parameters: int
    optimizer: int = 0
    gradients: int = 0
    cache: int = 0
    activations: int = 0
    phases: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Plan:
    """Bytes per device of a stage.

    Attributes:
      mesh: Sizes of its axes.
      roles: Of each model.
      temporary: Bytes of temporary buffers by phase, of its whole program.
      waiting: Bytes of what is in the host's memory, by phase.
    """

    mesh: dict[str, int]
    roles: list[Footprint]
    temporary: dict[str, int]
    waiting: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def held(self) -> int:
        """Parameters and optimizer states, wherever they are."""
        return sum(role.parameters + role.optimizer for role in self.roles)

    @property
    def phases(self) -> dict[str, int]:
        """The most that is held in each phase."""
        return {
            phase: self.held - self.waiting.get(phase, 0) + size
            for phase, size in self.temporary.items()
        }

    @property
    def peak(self) -> int:
        """The most that is held at any time."""
        return max(self.phases.values())


def plan(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    sft_config: Any,
    known: dict[str, int] | None = None,
    *,
    compiles: bool = True,
) -> Plan:
    """Plans a stage.

    Args:
      config: Of the stage.
      mesh: Of devices, fake ones will do.
      sft_config: See `roles.of`.
      known: Programs and their temporary bytes; grows, so that plans of like configs
        need not compile what they share.
      compiles: False leaves out what only a compiled program tells: temporary bytes
        and activations are 0.

    Raises:
      InputError: Settings that do not fit, or a model that nothing is known of.
      ValueError: A mesh that does not divide the batch or the parameters.
    """
    known = {} if known is None else known
    work = own_programs.Work(config, mesh, known, compiles)
    with jax.set_mesh(mesh):
        roles = roles_lib.of(config, mesh, sft_config)
        found = [_footprint(work, role) for role in roles]
        temporary = dict(found[0].phases)
        if 'actor' in config:
            temporary |= whole_programs.temporary(
                work, {role.name: role for role in roles}
            )
        return Plan(dict(mesh.shape), found, temporary, _waiting(config, found))


def _waiting(
    config: ml_collections.ConfigDict, roles: list[Footprint]
) -> dict[str, int]:
    """What `config.offload` leaves on the host, by phase."""
    if not config.get('offload'):
        return {}
    parameters = sum(role.parameters for role in roles)
    optimizer = sum(role.optimizer for role in roles)
    frozen = [role for role in roles if not role.optimizer]
    if config.critic.lora.rank:  # critics stand on the score models
        frozen = [role for role in frozen if role.role == 'reference']
    return {
        'rollout': parameters + optimizer - roles[0].parameters,
        'scoring': optimizer,
        'update': sum(role.parameters for role in frozen),
    }


def size(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings, or of arrays, on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _footprint(work: own_programs.Work, role: roles_lib.Role) -> Footprint:
    found = Footprint(role.name, size(role.held()))
    if 'actor' not in work.config:
        update: Any = own_programs.supervised(work, role)
    elif not role.learns:
        found.phases['scoring'] = own_programs.scoring(work, role)
        update = None
    elif role.name != 'actor':
        update = own_programs.critic(work, role)
    else:
        found.phases['rollout'], found.cache = own_programs.rollout(work, role)
        update = own_programs.actor(work, role)
    if update is not None:
        temporary, learner = update
        found.phases['update'] = temporary
        found.gradients = size(learner.params)
        found.optimizer = size(learner.opt_state)
    besides = {'rollout': found.cache, 'update': found.gradients}
    found.activations = max(
        max(0, bytes_ - besides.get(phase, 0)) for phase, bytes_ in found.phases.items()
    )
    return found
