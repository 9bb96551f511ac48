"""Continuous batching: rows that end leave, waiting prompts take their slots.

So one long response does not hold a batch. All slots write at one place of a cache
whose places are a ring: a new row's prompt is put just before that place, and a row is
gone before the ring comes round. So no step scatters, and the cache stays in place.
Pure functions; `scheduler` calls them from the host.
Axes: B slots, R rows of an admission, n samples of a prompt, P prompt, G response,
S = P + G places, V vocabulary, C places that are shown, K alternatives.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from beaver_jax import types
from beaver_jax.models import attention
from beaver_jax.models import blocks
from beaver_jax.models import transformer
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compiled.

    Attributes:
      model: The policy.
      sampler: How tokens are chosen; None where each row has its own sampler.
      eos_ids: Tokens that end a response.
      pad_id: Written where there is no token.
      slots: B, rows that are decoded at a time.
      prompt_lengths: Lengths that prompts are padded to, ascending; the last is P. A
        program is compiled for each.
      response_length: G, the most tokens of a response.
      admitted: Prompts that are read at a time.
      samples_per_prompt: n.
      alternatives: K, of rows with samplers of their own.
    """

    model: transformer.CausalLM
    sampler: sampling.Sampler | None
    eos_ids: tuple[int, ...]
    pad_id: int
    slots: int
    prompt_lengths: tuple[int, ...]
    response_length: int
    admitted: int
    samples_per_prompt: int = 1
    alternatives: int = 0

    def __post_init__(self):
        """Refuses slots that an admission does not fit into."""
        needed = self.admitted * self.samples_per_prompt
        if not 0 < needed <= self.slots:
            raise ValueError(
                f'{self.slots} slots do not hold {self.admitted} prompts of '
                f'{self.samples_per_prompt} samples each.'
            )

    @property
    def places(self) -> int:
        """S, of the cache."""
        return self.prompt_lengths[-1] + self.response_length

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of `generate.advance`."""
        return {'model': self.model, 'sampler': self.sampler, 'eos_ids': self.eos_ids}


def empty(settings: Settings) -> generate.Decoding:
    """All slots free."""
    rows, places = settings.slots, settings.places
    seen, top, by_row = None, None, None
    if settings.sampler is None:
        usual = sampling.Sampler()
        by_row = sampling.ByRow.of(
            [usual] * rows, [False] * rows, settings.alternatives
        )
        by_row = jax.tree.map(jnp.asarray, by_row)
        top = generate.no_alternatives(rows, places, settings.alternatives)
    if settings.sampler is None or settings.sampler.repetition_penalty != 1:
        seen = jnp.zeros((rows, settings.model.config.vocab_size), bool)
    return _pin(
        generate.Decoding(
            tokens=jnp.full((rows, places), settings.pad_id, jnp.int32),
            logps=jnp.zeros((rows, places)),
            column=jnp.ones((), jnp.int32),
            length=jnp.zeros(rows, jnp.int32),
            limit=jnp.zeros(rows, jnp.int32),
            done=jnp.zeros(rows, bool),
            keys=jax.random.split(jax.random.key(0), rows),
            seen=seen,
            cache=attention.init_cache(settings.model.config, rows, places),
            by_row=by_row,
            top=top,
        )
    )


def admit(
    params: Any,
    state: generate.Decoding,
    prompts: types.PromptBatch,
    slots: jax.Array,
    limits: jax.Array,
    key: jax.Array,
    by_row: sampling.ByRow | None = None,
    *,
    settings: Settings,
) -> generate.Decoding:
    """Reads prompts, samples their first tokens, and puts them into slots.

    Args:
      params: Of `transformer.unstack`.
      state: Of B slots; donated by the caller.
      prompts: R / n of them.
      slots: [R] int32, free slots, n for each prompt; B where there is no row.
      limits: [R] int32, the most tokens of each response, at most G.
      key: Random key, the same for all admissions: a row folds its number into it.
      by_row: R samplers, where each row has its own.
      settings: What is compiled.
    """
    how = settings.how if by_row is None else settings.how | {'sampler': by_row}
    new = generate.begin(
        params,
        prompts,
        key,
        response_length=1,
        pad_id=settings.pad_id,
        samples_per_prompt=settings.samples_per_prompt,
        **how,
    )
    before = (state.column - 1) % settings.places

    def put(rows, of_new):
        return rows.at[slots].set(of_new, mode='drop')

    def put_first(rows, of_new):
        return rows.at[slots, before].set(of_new[:, 0], mode='drop')

    return _pin(
        state.replace(
            tokens=put_first(state.tokens, new.tokens),
            logps=put_first(state.logps, new.logps),
            length=put(state.length, new.length),
            limit=put(state.limit, limits),
            done=put(state.done, new.done),
            keys=put(state.keys, new.keys),
            seen=None if state.seen is None else put(state.seen, new.seen),
            cache=attention.insert(state.cache, new.cache, slots),
            by_row=jax.tree.map(put, state.by_row, new.by_row),
            top=jax.tree.map(put_first, state.top, new.top),
        )
    )


def advance(
    params: Any,
    state: generate.Decoding,
    steps: jax.Array | int,
    free: jax.Array | int,
    *,
    settings: Settings,
) -> generate.Decoding:
    """Samples tokens until so many slots are free, or for so many steps.

    Args:
      params: Of `transformer.unstack`.
      state: Donated by the caller.
      steps: [] int32, at most.
      free: [] int32, free slots that are waited for.
      settings: What is compiled.
    """

    def goes_on(carry):
        step, state = carry
        return (step < steps) & (jnp.sum(~state.alive()) < free)

    def body(carry):
        step, state = carry
        return step + 1, generate.advance(params, state, **settings.how)

    return _pin(jax.lax.while_loop(goes_on, body, (0, state))[1])


class Recent(struct.PyTreeNode):
    """What rows have got of late."""

    tokens: jax.Array  # [B, C] int32, of the last C places
    logps: jax.Array  # [B, C] float32
    top: generate.Alternatives | None  # [B, C, K]
    column: jax.Array  # [] int32, the place after them
    length: jax.Array  # [B] int32, response tokens so far
    done: jax.Array  # [B] bool, the row's EOS was sampled
    alive: jax.Array  # [B] bool


def recent(state: generate.Decoding, *, count: int) -> Recent:
    """The last `count` places, for who shows tokens as they come."""
    places = state.tokens.shape[1]
    columns = (state.column - count + jnp.arange(count)) % places

    def last(x):
        return jnp.take(x, columns, axis=1)

    return Recent(
        tokens=last(state.tokens),
        logps=last(state.logps),
        top=jax.tree.map(last, state.top),
        column=state.column,
        length=state.length,
        done=state.done,
        alive=state.alive(),
    )


def release(state: generate.Decoding, slots: jax.Array) -> generate.Decoding:
    """Ends rows before their time: [B] bool. The state is donated by the caller."""
    return _pin(state.replace(limit=jnp.where(slots, 0, state.limit)))


def _pin(state: generate.Decoding) -> generate.Decoding:
    """Rows over the batch axes of the mesh, heads of the cache over tensor."""
    rows = blocks.BATCH

    def pin(x):
        spec = (rows, 'tensor', None, None) if x.ndim == 4 else (rows,)
        return blocks.constrain(x, *spec) if x.ndim else x

    return jax.tree.map(pin, state)
