"""The programs of single roles, as shapes: update, scoring, the actor's rollout.

Each is compiled for the mesh at its real sizes from shapes alone, and XLA says how
large its temporary buffers are. Layers are scanned, so depth costs no time; a rollout,
which unrolls them, is compiled with two and four layers and goes on linearly.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
import ml_collections

from beaver_jax import scoring as scoring_lib
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import attention
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import preference as preference_stage
from beaver_jax.stages import roles as roles_lib
from beaver_jax.stages import rollouts
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import ppo_lag
from beaver_jax.steps import ppo_losses
from beaver_jax.steps import preference
from beaver_jax.steps import sft
from beaver_jax.steps import state as state_lib

SHALLOW, DEEPER = 2, 4  # layers of the rollouts that are compiled


def temporary(program: Any) -> int:
    """Bytes that a compiled program needs beside its arguments, on one device."""
    analysis = program.memory_analysis()
    made = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.temp_size_in_bytes + max(0, made)


@dataclasses.dataclass(frozen=True)
class Work:
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


def spread(mesh: Mesh, tree: Any) -> Any:
    """Shapes of batches, rows spread over the mesh."""
    spread = sharding.batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread), tree
    )


def _array(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
    """The shape of an array, where a struct wants the array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def sample_shapes(rows: int, prompt: int, response: int) -> types.Samples:
    """Samples, as shapes."""
    return types.Samples(
        tokens=_array((rows, prompt + response), jnp.int32),
        mask=_array((rows, prompt + response), jnp.bool_),
        response_mask=_array((rows, response), jnp.bool_),
        logps=_array((rows, response)),
        truncated=_array((rows,), jnp.bool_),
    )


def sft_shapes(rows: int, length: int, *, packed: bool = False) -> types.SftBatch:
    """Supervised rows, as shapes."""
    tokens, mask = _array((rows, length), jnp.int32), _array((rows, length), jnp.bool_)
    return types.SftBatch(tokens, mask, mask, tokens if packed else None)


def _learn(
    work: Work, role: roles_lib.Role, optimizer: Any, gradients: Any, batch: Any
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
        spread(work.mesh, batch),
        donate_argnums=0,
        out_shardings=shardings,
    )
    return found, learner


def sizes(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """(samples of an iteration, tokens of a prompt, tokens of a response)."""
    rows = config.rollout.prompts * config.rollout.samples_per_prompt
    return rows, config.max_prompt_length, config.max_response_length


def actor(work: Work, role: roles_lib.Role) -> tuple[int, Any]:
    """Temporary bytes of the actor's update, and its learner's shapes."""
    config = work.config
    settings = ppo_settings.coefficients(config)
    rows, prompt, response = sizes(config)
    rows //= settings.minibatches
    ptx = sft_shapes(rows, prompt + response) if settings.ptx_coeff > 0 else None
    batch = (sample_shapes(rows, prompt, response), _array((rows, response)), ptx)
    optimizer, _ = stage_lib.optimizer(config, 'actor_optimizer', config.iterations)

    def gradients(params, batch, model):
        return ppo_lag.actor_gradients(params, batch, model=model, config=settings)[0]

    return _learn(work, role, optimizer, gradients, batch)


def critic(work: Work, role: roles_lib.Role) -> tuple[int, Any]:
    """Temporary bytes of a critic's update, and its learner's shapes."""
    config = work.config
    settings = ppo_settings.coefficients(config)
    rows, prompt, response = sizes(config)
    rows //= settings.minibatches
    values = _array((rows, response))
    batch = (sample_shapes(rows, prompt, response), values, values)
    optimizer, _ = stage_lib.optimizer(config, 'critic_optimizer', config.iterations)

    def gradients(params, batch, model):
        loss = functools.partial(ppo_losses.critic_loss, model=model, config=settings)
        return state_lib.gradients(loss, params, batch, parts=settings.parts)[0]

    return _learn(work, role, optimizer, gradients, batch)


def supervised(work: Work, role: roles_lib.Role) -> tuple[int, Any]:
    """Temporary bytes of a supervised update, and its learner's shapes."""
    config, mesh = work.config, work.mesh
    rows, length = config.batch_size, config.max_length
    optimizer, _ = stage_lib.optimizer(config, 'optimizer', 1000)
    if config.stage == 'sft':

        def gradients(params, batch, model):
            loss = functools.partial(sft.sft_loss, model=model)
            return state_lib.gradients(loss, params, batch, parts=config.parts)[0]

        batch = sft_shapes(rows, length, packed=config.pack)
        return _learn(work, role, optimizer, gradients, batch)
    settings = preference_stage.check(config, mesh)
    outputs = len(settings.outputs)
    pairs = types.PairBatch(
        tokens=_array((rows, 2, length), jnp.int32),
        mask=_array((rows, 2, length), jnp.bool_),
        safety_sign=_array((rows, 2, outputs), jnp.int32),
        valid=_array((rows,), jnp.bool_),
        order=_array((rows, outputs), jnp.int32) if outputs > 1 else None,
    )
    normalizer = score.init_normalizer(role.model.config.score_dim)

    def pair_gradients(params, batch, model):
        def loss(params, part):
            return preference.preference_loss(
                params, part, normalizer, model=model, config=settings
            )

        return state_lib.gradients(loss, params, batch, parts=config.parts)[0]

    return _learn(work, role, optimizer, pair_gradients, pairs)


def scoring(work: Work, role: roles_lib.Role) -> int:
    """Temporary bytes of the scoring of all samples."""
    config = work.config
    rows, prompt, response = sizes(config)
    samples = sample_shapes(rows, prompt, response)

    def score_samples(params, base, samples):
        def of(part):
            model = role.over(base)
            if isinstance(role.model, transformer.CausalLM):
                return scoring_lib.response_logps(
                    model, params, part.tokens, part.mask, response_length=response
                )
            return scoring_lib.response_values(
                model, params, part.tokens, part.mask, response_length=response
            )

        if config.rollout.chunks == 1:
            return of(samples)
        return jax.lax.map(of, sharding.split_rows(samples, config.rollout.chunks))

    return work.compiled(
        score_samples, role.params, role.base, spread(work.mesh, samples)
    )


def rollout(work: Work, role: roles_lib.Role) -> tuple[int, int]:
    """Temporary bytes of a rollout, and those of its cache among them."""
    config = work.config
    rows, prompt, response = sizes(config)
    prompts = types.PromptBatch(
        tokens=_array((config.rollout.prompts, prompt), jnp.int32),
        mask=_array((config.rollout.prompts, prompt), jnp.bool_),
        row=_array((config.rollout.prompts,), jnp.int32),
    )

    def compiled(layers):
        shallow = _with_layers(role, layers)

        def rollout(params, base, prompts, key):
            params = lora_lib.overlay(role.lora, base, params)
            if config.rollout.slots:
                return _in_slots(work, params, shallow.model, prompts, key)
            return generate.generate(
                params,
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
            rollout, shallow.params, shallow.base, spread(work.mesh, prompts), key
        )

    depth = role.model.config.num_layers
    if depth <= DEEPER:
        found = compiled(depth)
    else:
        low, high = compiled(SHALLOW), compiled(DEEPER)
        found = low + (high - low) * (depth - SHALLOW) // (DEEPER - SHALLOW)
    make = functools.partial(
        attention.init_cache,
        role.model.config,
        config.rollout.slots or rows,
        prompt + response,
    )
    cache = jax.eval_shape(make)
    total = sum(x.size * x.dtype.itemsize for x in (*cache.keys, *cache.values))
    return found, total // work.mesh.size


def _in_slots(work: Work, params, model, prompts, key):
    """An admission and a step in one program, which needs what they need in turns."""
    settings = rollouts.settings(work.config, work.mesh, model, eos_id=1, pad_id=0)
    params = transformer.unstack(params, model.config)
    admitted = jax.tree.map(lambda x: x[: settings.admitted], prompts)
    rows = settings.admitted * settings.samples_per_prompt
    state = continuous.admit(
        params,
        continuous.empty(settings),
        admitted,
        jnp.arange(rows),
        jnp.ones(rows, jnp.int32),
        key,
        settings=settings,
    )
    return continuous.advance(params, state, 1, 1, settings=settings)


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
