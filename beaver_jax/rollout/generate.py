"""Compiled generation over static shapes.

One prefill, then a while loop that ends when every row has: `advance` is its body,
and also what chat calls token by token, and `continuous` for rows that come and go.
The KV cache is carried, updated in place.
Axes: B rows, n samples of a prompt, P prompt, G response, S places, V vocabulary,
K alternatives.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from beaver_jax import types
from beaver_jax.losses import causal_lm
from beaver_jax.models import attention
from beaver_jax.models import transformer
from beaver_jax.rollout import sampling


class Alternatives(struct.PyTreeNode):
    """The likeliest tokens in the place of each."""

    tokens: jax.Array  # [B, G, K] int32, the likeliest first
    logps: jax.Array  # [B, G, K] float32


class Decoding(struct.PyTreeNode):
    """A generation under way."""

    tokens: jax.Array  # [B, G] int32, the pad id after a row's end
    # [B, G] float32, at the temperature of sampling, as RL scores what it samples; of
    # rows with samplers of their own at temperature 1, so that they can be compared.
    logps: jax.Array
    column: jax.Array  # [] int32, where the next tokens go; after the last the first
    length: jax.Array  # [B] int32, response tokens so far, the EOS included
    limit: jax.Array  # [B] int32, the most of them
    done: jax.Array  # [B] bool, the row's EOS was sampled
    keys: jax.Array  # [B] one random key per row
    seen: jax.Array | None  # [B, V] bool, for a repetition penalty
    cache: attention.Cache
    by_row: sampling.ByRow | None = None  # samplers of the rows, where each has its own
    top: Alternatives | None = None  # where `by_row` has alternatives

    def alive(self) -> jax.Array:
        """[B] bool, rows that have not ended."""
        return ~self.done & (self.length < self.limit)


def begin(
    params: Any,
    prompts: types.PromptBatch,
    key: jax.Array,
    *,
    model: transformer.CausalLM,
    response_length: int,
    sampler: sampling.Sampler | sampling.ByRow,
    eos_ids: tuple[int, ...],
    pad_id: int,
    samples_per_prompt: int = 1,
) -> Decoding:
    """Reads the prompts and samples the first token of each response.

    Args:
      params: Of the policy.
      prompts: Left padded.
      key: Random key; a row uses fold_in(key, its number), so that its result depends
        on neither its place in the batch nor its neighbours. Sample j of a prompt has
        the number n·prompts.row + j.
      model: The policy.
      response_length: G, the most tokens of a response.
      sampler: How tokens are chosen, or B samplers.
      eos_ids: Tokens that end a response.
      pad_id: Written after a response's end.
      samples_per_prompt: n, which share the reading of their prompt.

    Returns:
      A generation of B = prompts · n rows, those of a prompt side by side.
    """
    logits, cache = _read(params, prompts, model, response_length)
    copies = jnp.arange(samples_per_prompt)[None]
    number = (prompts.row[:, None] * samples_per_prompt + copies).reshape(-1)
    rows = number.shape[0]
    # Of the cache as of all that has rows; its place is one for all.
    logits, cache, prompts = jax.tree.map(
        lambda x: jnp.repeat(x, samples_per_prompt, axis=0) if x.ndim else x,
        (logits, cache, prompts),
    )
    by_row = sampler if isinstance(sampler, sampling.ByRow) else None
    seen, top = None, None
    if isinstance(sampler, sampling.ByRow) or sampler.repetition_penalty != 1:
        ids = jnp.where(prompts.mask, prompts.tokens, model.config.vocab_size)
        seen = jnp.zeros((rows, model.config.vocab_size + 1), bool)
        seen = seen.at[jnp.arange(rows)[:, None], ids].set(True)[:, :-1]
    if by_row is not None:
        top = no_alternatives(rows, response_length, by_row.alternatives)
    state = Decoding(
        tokens=jnp.full((rows, response_length), pad_id, jnp.int32),
        logps=jnp.zeros((rows, response_length)),
        column=jnp.zeros((), jnp.int32),
        length=jnp.zeros(rows, jnp.int32),
        limit=jnp.full(rows, response_length),
        done=jnp.zeros(rows, bool),
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, number),
        seen=seen,
        cache=cache,
        by_row=by_row,
        top=top,
    )
    return _write(state, logits, sampler=sampler, eos_ids=eos_ids)


def no_alternatives(rows: int, places: int, count: int) -> Alternatives | None:
    """Room for so many in each place."""
    shape = (rows, places, count)
    if not count:
        return None
    return Alternatives(jnp.zeros(shape, jnp.int32), jnp.zeros(shape))


def _read(params, prompts, model, response_length):
    """Logits after the prompts, [B, V], and the cache with room for the responses.

    The prompts are read into a cache of their own length: queries and keys are then
    the same tokens, and none is computed with empty places.
    """
    rows, length = prompts.tokens.shape
    empty = attention.init_cache(model.config, rows, length)
    found: Any = model.apply(
        {'params': params}, prompts.tokens, prompts.mask, empty, wanted=slice(-1, None)
    )
    logits, cache = found
    return logits[:, 0], attention.lengthen(cache, response_length)


def advance(
    params: Any,
    state: Decoding,
    *,
    model: transformer.CausalLM,
    sampler: sampling.Sampler | None,
    eos_ids: tuple[int, ...],
) -> Decoding:
    """Samples one more token of each row that has not ended.

    `sampler` is for rows that have none of their own.
    """
    before = (state.column - 1) % state.tokens.shape[1]
    last = jax.lax.dynamic_slice_in_dim(state.tokens, before, 1, axis=1)
    logits, cache = model.apply(
        {'params': params}, last, state.alive()[:, None], state.cache
    )
    state = state.replace(cache=cache)
    return _write(state, logits[:, 0], sampler=sampler, eos_ids=eos_ids)


def _write(state: Decoding, logits, *, sampler, eos_ids) -> Decoding:
    """Samples a token per row from logits [B, V] and writes it at `column`."""
    sampled, logps = _choose(state, logits, sampler)
    alive = state.alive()
    ended = jnp.any(jnp.stack([sampled == eos for eos in eos_ids]), axis=0)
    seen = state.seen
    if seen is not None:
        rows = jnp.arange(seen.shape[0])
        seen = seen.at[rows, sampled].set(True)
    return state.replace(
        tokens=_put(state, state.tokens, sampled[:, None]),
        logps=_put(state, state.logps, logps),
        column=(state.column + 1) % state.tokens.shape[1],
        length=state.length + alive.astype(jnp.int32),
        done=state.done | (alive & ended),
        seen=seen,
        top=_write_alternatives(state, logits),
    )


def _put(state: Decoding, held: jax.Array, new: jax.Array) -> jax.Array:
    """Writes [B, 1, …] into [B, G, …] at `column`, of rows that have not ended.

    Of the others what is there stays: the pad id, or in slots, whose columns come
    round again, what a row that has not left yet has said.
    """
    old = jax.lax.dynamic_slice_in_dim(held, state.column, 1, axis=1)
    alive = state.alive().reshape(-1, *[1] * (held.ndim - 1))
    new = jnp.where(alive, new, old)
    return jax.lax.dynamic_update_slice_in_dim(held, new, state.column, axis=1)


def _choose(state: Decoding, logits, sampler) -> tuple[jax.Array, jax.Array]:
    """A token per row, [B], and its log-probability, [B, 1]."""
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
    if state.by_row is None:
        filtered = sampling.filter_logits(logits, sampler, state.seen)
        sampled = sampling.sample(keys, filtered, sampler)
        temperature = sampler.temperature or 1.0
    else:
        assert state.seen is not None
        filtered = sampling.filter_by_row(
            logits, state.by_row, state.seen, state.alive()
        )
        sampled = sampling.sample_by_row(keys, filtered, state.by_row)
        temperature = 1.0
    logps = causal_lm.token_logps(
        logits[:, None], sampled[:, None], temperature=temperature
    )
    return sampled, logps


def _write_alternatives(state: Decoding, logits) -> Alternatives | None:
    if state.top is None or state.by_row is None:
        return None
    found = sampling.alternatives(logits, state.by_row, state.alive())
    return jax.tree.map(
        lambda held, new: _put(state, held, new[:, None]),
        state.top,
        Alternatives(*found),
    )


def finish(state: Decoding, prompts: types.PromptBatch) -> types.Samples:
    """The responses as samples; prompts as given to `begin`."""
    rows, response_length = state.tokens.shape
    copies = rows // prompts.tokens.shape[0]
    tokens, mask = (jnp.repeat(x, copies, 0) for x in (prompts.tokens, prompts.mask))
    response_mask = jnp.arange(response_length)[None] < state.length[:, None]
    return types.Samples(
        tokens=jnp.concatenate([tokens, state.tokens], axis=1),
        mask=jnp.concatenate([mask, response_mask], axis=1),
        response_mask=response_mask,
        logps=state.logps,
        truncated=~state.done,
    )


def generate(
    params: Any,
    prompts: types.PromptBatch,
    key: jax.Array,
    *,
    model: transformer.CausalLM,
    response_length: int,
    sampler: sampling.Sampler,
    eos_ids: tuple[int, ...],
    pad_id: int,
    samples_per_prompt: int = 1,
) -> types.Samples:
    """Samples responses; ends early when every row has ended.

    Args: see `begin`.

    Returns:
      Samples of B rows.
    """
    params = transformer.unstack(params, model.config)
    how: Any = {'model': model, 'sampler': sampler, 'eos_ids': eos_ids}
    state = begin(
        params,
        prompts,
        key,
        response_length=response_length,
        pad_id=pad_id,
        samples_per_prompt=samples_per_prompt,
        **how,
    )
    state = jax.lax.while_loop(
        lambda state: jnp.any(state.alive()),
        lambda state: advance(params, state, **how),
        state,
    )
    return finish(state, prompts)
