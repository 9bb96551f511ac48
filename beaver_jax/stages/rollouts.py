"""The rollout of a stage: all rows at once, or in slots by continuous batching."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from beaver_jax import compilation
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.rollout import scheduler
from beaver_jax.stages import inputs
from beaver_jax.stages import learning

# The share of slots that an admission fills: small, so that few wait for each other,
# and not so small that reading prompts is slow.
ADMISSION = 8


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Refuses slots and buckets that do not fit the mesh, or each other.

    Raises:
      InputError: They do not.
    """
    section = config.rollout
    inputs.check_counts(config, 'rollout.prompt_buckets')
    if section.prompt_buckets > config.max_prompt_length:
        raise inputs.InputError(
            f'config.rollout.prompt_buckets={section.prompt_buckets} is more than '
            f'config.max_prompt_length={config.max_prompt_length} lengths.'
        )
    if section.slots == 0:
        if section.prompt_buckets > 1:
            raise inputs.InputError(
                f'config.rollout.prompt_buckets={section.prompt_buckets} needs slots, '
                'which prompts enter a few at a time; set config.rollout.slots.'
            )
        return
    devices = mesh.shape['data'] * mesh.shape['fsdp']
    step = devices * section.samples_per_prompt
    rows = section.prompts * section.samples_per_prompt
    if section.slots < 0 or section.slots > rows or section.slots % step:
        raise inputs.InputError(
            f'config.rollout.slots={section.slots}; use 0 for all rows at once, or a '
            f'multiple of {step} (data×fsdp={devices}, samples_per_prompt='
            f'{section.samples_per_prompt}) up to the {rows} rows of an iteration.'
        )


def settings(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    model: transformer.CausalLM,
    eos_id: int,
    pad_id: int,
) -> continuous.Settings:
    """What is compiled for the slots of a checked config."""
    section, longest = config.rollout, config.max_prompt_length
    devices = mesh.shape['data'] * mesh.shape['fsdp']
    step = devices * section.samples_per_prompt
    buckets = section.prompt_buckets
    return continuous.Settings(
        model=model,
        sampler=sampling.Sampler(temperature=section.temperature),
        eos_ids=(eos_id,),
        pad_id=pad_id,
        slots=section.slots,
        prompt_lengths=tuple(-(-longest * (i + 1) // buckets) for i in range(buckets)),
        response_length=config.max_response_length,
        admitted=devices * max(1, section.slots // step // ADMISSION),
        samples_per_prompt=section.samples_per_prompt,
    )


def make(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    actor: learning.Learning,
    model: transformer.CausalLM,
    tokenizer: inputs.Tokenizer,
) -> 'compilation.Program | InSlots':
    """(params, base, prompts, key) to samples.

    Random numbers go by place, not by row of the data set: a batch that spans two
    epochs may hold a row twice.
    """
    eos_id, pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if config.rollout.slots:
        how = settings(config, mesh, model, eos_id, pad_id)
        return InSlots(mesh, actor, how)

    def rollout(params, base, prompts, key):
        return generate.generate(
            actor.overlay(base, params),
            prompts.replace(row=jnp.arange(prompts.row.shape[0])),
            key,
            model=model,
            response_length=config.max_response_length,
            sampler=sampling.Sampler(temperature=config.rollout.temperature),
            eos_ids=(eos_id,),
            pad_id=pad_id,
            samples_per_prompt=config.rollout.samples_per_prompt,
        )

    return compilation.Program(jax.jit(rollout))


class InSlots:
    """A rollout by continuous batching, which the host watches."""

    def __init__(self, mesh: Mesh, actor: learning.Learning, how: continuous.Settings):
        """Compiles nothing yet."""

        def prepare(params, base):
            return transformer.unstack(actor.overlay(base, params), how.model.config)

        self._mesh, self._how = mesh, how
        self._prepare = jax.jit(prepare)

    def ahead(self, params, base, prompts, key) -> tuple[compilation.Ahead, Any]:
        """As of `compilation.Program`; that of memory is not known."""
        begun = time.perf_counter()
        warm = scheduler.Scheduler(self._prepare(params, base), key, self._how)
        warm.warm_up()
        rows = len(prompts.row) * self._how.samples_per_prompt
        where = sharding.batch_sharding(self._mesh)

        def array(dtype, *shape) -> Any:
            return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=where)

        width = self._how.response_length
        length = prompts.tokens.shape[1] + width
        return compilation.Ahead(time.perf_counter() - begun, 0), types.Samples(
            tokens=array(jnp.int32, length),
            mask=array(jnp.bool_, length),
            response_mask=array(jnp.bool_, width),
            logps=array(jnp.float32, width),
            truncated=array(jnp.bool_),
        )

    def __call__(self, params, base, prompts, key) -> types.Samples:
        """Samples responses."""
        prompts = sharding.to_host(prompts)
        prompts = prompts.replace(row=np.arange(len(prompts.row)))
        samples = scheduler.respond(
            self._prepare(params, base), prompts, key, settings=self._how
        )
        return sharding.spread(self._mesh, samples)
