"""Bytes per device of a stage, before anything is allocated.

Parameters, gradients, optimizer states and the KV cache follow from shapes and
sharding rules. Activations are what XLA needs beside them: each role's own program
(its update, its scoring, the actor's rollout) is compiled for the mesh at its real
sizes from shapes alone, and XLA says how large its temporary buffers are. What is held
at most comes from the stage's own programs, in which XLA overlaps the roles. Layers are
scanned, so depth costs no time; a rollout, which unrolls them, is compiled with two
and four layers and goes on linearly from there.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
import ml_collections

from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import attention
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import preference as preference_stage
from beaver_jax.stages import roles as roles_lib
from beaver_jax.stages import stage as stage_lib
from beaver_jax.stages import whole_programs
from beaver_jax.steps import ppo_lag
from beaver_jax.steps import preference
from beaver_jax.steps import sft
from beaver_jax.steps import state as state_lib

SHALLOW, DEEPER = 2, 4  # layers of the rollouts that are compiled


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
    """

    mesh: dict[str, int]
    roles: list[Footprint]
    temporary: dict[str, int]

    @property
    def held(self) -> int:
        """Parameters and optimizer states, at all times."""
        return sum(role.parameters + role.optimizer for role in self.roles)

    @property
    def phases(self) -> dict[str, int]:
        """The most that is held in each phase."""
        return {phase: self.held + size for phase, size in self.temporary.items()}

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
    work = _Work(config, mesh, known, compiles)
    with jax.set_mesh(mesh):
        roles = roles_lib.of(config, mesh, sft_config)
        found = [_footprint(work, role) for role in roles]
        temporary = dict(found[0].phases)
        if 'actor' in config:
            temporary |= _whole(work, {role.name: role for role in roles})
        return Plan(dict(mesh.shape), found, temporary)


def size(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings, or of arrays, on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _footprint(work: '_Work', role: roles_lib.Role) -> Footprint:
    found = Footprint(role.name, size(role.held()))
    if 'actor' not in work.config:
        update: Any = _supervised(work, role)
    elif not role.learns:
        found.phases['scoring'] = _scoring(work, role)
        update = None
    elif role.name != 'actor':
        update = _critic(work, role)
    else:
        found.phases['rollout'], found.cache = _rollout(work, role)
        update = _actor(work, role)
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


def temporary(program: Any) -> int:
    """Bytes that a compiled program needs beside its arguments, on one device."""
    analysis = program.memory_analysis()
    made = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.temp_size_in_bytes + max(0, made)


# ---- Programs -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the programs of a plan have in common."""

    config: ml_collections.ConfigDict
    mesh: Mesh
    known: dict[str, int]
    compiles: bool

    def compiled(self, function: Callable[..., Any], *args: Any, **jit: Any) -> int:
        """Temporary bytes of a program of shapes; equal programs are compiled once."""
        if not self.compiles:
            return 0
        lowered = jax.jit(function, **jit).lower(*args)
        text = lowered.as_text()
        if text not in self.known:
            # Buffers are assigned before machine code is made, which nobody will run.
            cpu = jax.default_backend() == 'cpu'
            options: dict[str, str | bool] = {}
            if cpu:
                options = {'xla_backend_optimization_level': '0'}
            self.known[text] = temporary(lowered.compile(compiler_options=options))
        return self.known[text]


def _rows(mesh: Mesh, tree: Any) -> Any:
    """Shapes of batches, rows spread over the mesh."""
    spread = sharding.batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread), tree
    )


def _array(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
    """The shape of an array, where a struct wants the array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _samples(rows: int, prompt: int, response: int) -> types.Samples:
    return types.Samples(
        tokens=_array((rows, prompt + response), jnp.int32),
        mask=_array((rows, prompt + response), jnp.bool_),
        response_mask=_array((rows, response), jnp.bool_),
        logps=_array((rows, response)),
        truncated=_array((rows,), jnp.bool_),
    )


def _sft_rows(rows: int, length: int) -> types.SftBatch:
    tokens, mask = _array((rows, length), jnp.int32), _array((rows, length), jnp.bool_)
    return types.SftBatch(tokens, mask, mask)


def _learn(
    work: _Work, role: roles_lib.Role, optimizer: Any, gradients: Any, batch: Any
) -> tuple[int, Any]:
    """Temporary bytes of an update, and the learner's shapes."""
    init = functools.partial(state_lib.init_learner, optimizer=optimizer)
    learner = roles_lib.placed(work.mesh, jax.eval_shape(init, role.params))

    def update(learner, base, batch):
        grads = gradients(learner.params, batch, role.over(base))
        return state_lib.apply_gradients(learner, grads, optimizer)

    shardings = jax.tree.map(lambda x: x.sharding, learner)
    found = work.compiled(
        update,
        learner,
        role.base,
        _rows(work.mesh, batch),
        donate_argnums=0,
        out_shardings=shardings,
    )
    return found, learner


def _samples_of(config) -> tuple[int, int, int]:
    rows = config.rollout.prompts * config.rollout.samples_per_prompt
    return rows, config.max_prompt_length, config.max_response_length


def _actor(work: _Work, role: roles_lib.Role) -> tuple[int, Any]:
    config = work.config
    settings = ppo_settings.coefficients(config)
    rows, prompt, response = _samples_of(config)
    rows //= settings.minibatches
    ptx = _sft_rows(rows, prompt + response) if settings.ptx_coeff > 0 else None
    batch = (_samples(rows, prompt, response), _array((rows, response)), ptx)
    optimizer, _ = stage_lib.optimizer(config, 'actor_optimizer', config.iterations)

    def gradients(params, batch, model):
        return ppo_lag.actor_gradients(params, batch, model=model, config=settings)[0]

    return _learn(work, role, optimizer, gradients, batch)


def _critic(work: _Work, role: roles_lib.Role) -> tuple[int, Any]:
    config = work.config
    settings = ppo_settings.coefficients(config)
    rows, prompt, response = _samples_of(config)
    rows //= settings.minibatches
    values = _array((rows, response))
    batch = (_samples(rows, prompt, response), values, values)
    optimizer, _ = stage_lib.optimizer(config, 'critic_optimizer', config.iterations)

    def gradients(params, batch, model):
        loss = functools.partial(ppo_lag.critic_loss, model=model, config=settings)
        return state_lib.gradients(loss, params, batch, parts=settings.parts)[0]

    return _learn(work, role, optimizer, gradients, batch)


def _supervised(work: _Work, role: roles_lib.Role) -> tuple[int, Any]:
    config, mesh = work.config, work.mesh
    rows, length = config.batch_size, config.max_length
    optimizer, _ = stage_lib.optimizer(config, 'optimizer', 1000)
    if config.stage == 'sft':

        def gradients(params, batch, model):
            loss = functools.partial(sft.sft_loss, model=model)
            return state_lib.gradients(loss, params, batch, parts=config.parts)[0]

        return _learn(work, role, optimizer, gradients, _sft_rows(rows, length))
    settings = preference_stage.check(config, mesh)
    batch = types.PairBatch(
        tokens=_array((rows, 2, length), jnp.int32),
        mask=_array((rows, 2, length), jnp.bool_),
        safety_sign=_array((rows, 2), jnp.int32),
        valid=_array((rows,), jnp.bool_),
    )
    normalizer = score.init_normalizer(role.model.config.score_dim)

    def pair_gradients(params, batch, model):
        def loss(params, part):
            return preference.preference_loss(
                params, part, normalizer, model=model, config=settings
            )

        return state_lib.gradients(loss, params, batch, parts=config.parts)[0]

    return _learn(work, role, optimizer, pair_gradients, batch)


def _scoring(work: _Work, role: roles_lib.Role) -> int:
    config = work.config
    rows, prompt, response = _samples_of(config)
    samples = _samples(rows, prompt, response)

    def score_samples(params, base, samples):
        def of(part):
            model = role.over(base)
            if isinstance(role.model, transformer.CausalLM):
                return scoring.response_logps(
                    model, params, part.tokens, part.mask, response_length=response
                )
            return scoring.response_values(
                model, params, part.tokens, part.mask, response_length=response
            )

        if config.rollout.chunks == 1:
            return of(samples)
        return jax.lax.map(of, sharding.split_rows(samples, config.rollout.chunks))

    return work.compiled(
        score_samples, role.params, role.base, _rows(work.mesh, samples)
    )


def _whole(work: _Work, roles: dict[str, roles_lib.Role]) -> dict[str, int]:
    """Temporary bytes of the programs that hold several models."""
    config, mesh = work.config, work.mesh
    samples = _samples(*_samples_of(config))
    own = {name: role.params for name, role in roles.items()}
    bases = whole_programs.bases(roles)
    scoring_ = whole_programs.scoring(config, roles)
    step, state = whole_programs.update(config, mesh, roles)
    ptx = None
    if config.ppo.ptx_coeff > 0:
        ptx = _sft_rows(*samples.tokens.shape)
    batch = (whole_programs.rows(config, samples, roles), ptx)
    return {
        'scoring': work.compiled(scoring_, own, bases, _rows(mesh, samples)),
        'update': work.compiled(
            step,
            state,
            _rows(mesh, batch),
            bases,
            jax.eval_shape(lambda: jax.random.key(0)),
            donate_argnums=0,
            out_shardings=whole_programs.shardings(mesh, state),
        ),
    }


def _rollout(work: _Work, role: roles_lib.Role) -> tuple[int, int]:
    """Temporary bytes of a rollout, and those of its cache among them."""
    config = work.config
    rows, prompt, response = _samples_of(config)
    prompts = types.PromptBatch(
        tokens=_array((config.rollout.prompts, prompt), jnp.int32),
        mask=_array((config.rollout.prompts, prompt), jnp.bool_),
        row=_array((config.rollout.prompts,), jnp.int32),
    )

    def compiled(layers):
        shallow = _with_layers(role, layers)

        def rollout(params, base, prompts, key):
            return generate.generate(
                lora_lib.overlay(role.lora, base, params),
                prompts,
                key,
                model=shallow.model,
                response_length=response,
                sampler=sampling.Sampler(temperature=config.rollout.temperature),
                eos_ids=(1,),
                pad_id=0,
                samples_per_prompt=config.rollout.samples_per_prompt,
            )

        key = jax.eval_shape(lambda: jax.random.key(0))
        return work.compiled(
            rollout, shallow.params, shallow.base, _rows(work.mesh, prompts), key
        )

    depth = role.model.config.num_layers
    if depth <= DEEPER:
        found = compiled(depth)
    else:
        low, high = compiled(SHALLOW), compiled(DEEPER)
        found = low + (high - low) * (depth - SHALLOW) // (DEEPER - SHALLOW)
    make = functools.partial(
        attention.init_cache, role.model.config, rows, prompt + response
    )
    cache = jax.eval_shape(make)
    total = sum(x.size * x.dtype.itemsize for x in (*cache.keys, *cache.values))
    return found, total // work.mesh.size


def _with_layers(role: roles_lib.Role, count: int) -> roles_lib.Role:
    """The role with fewer layers."""

    def cut(path, x):
        stacked = 'layers/' in sharding.path_string(path)
        shape = (count, *x.shape[1:]) if stacked else x.shape
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)

    config = dataclasses.replace(role.model.config, num_layers=count)
    if config.windowed:
        config = dataclasses.replace(config, windowed=config.windowed[:count])
    params, base = jax.tree_util.tree_map_with_path(cut, (role.params, role.base))
    model = transformer.CausalLM(config)
    return dataclasses.replace(role, model=model, params=params, base=base)
