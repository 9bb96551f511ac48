"""Compiled generation over static shapes.

One prefill, then a while loop that ends when every row has: `advance` is its body,
and also what chat calls token by token, and `continuous` for rows that come and go.
The KV cache is carried, updated in place.
Axes: B rows, n samples of a prompt, P prompt, G response, S places, V vocabulary.
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


class Decoding(struct.PyTreeNode):
    """A generation under way."""

    tokens: jax.Array  # [B, G] int32, the pad id after a row's end
    logps: jax.Array  # [B, G] float32
    column: jax.Array  # [] int32, where the next tokens go; after the last the first
    length: jax.Array  # [B] int32, response tokens so far, the EOS included
    limit: jax.Array  # [B] int32, the most of them
    done: jax.Array  # [B] bool, the row's EOS was sampled
    keys: jax.Array  # [B] one random key per row
    seen: jax.Array | None  # [B, V] bool, for a repetition penalty
    cache: attention.Cache

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
    sampler: sampling.Sampler,
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
      sampler: How tokens are chosen.
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
    seen = None
    if sampler.repetition_penalty != 1:
        ids = jnp.where(prompts.mask, prompts.tokens, model.config.vocab_size)
        seen = jnp.zeros((rows, model.config.vocab_size + 1), bool)
        seen = seen.at[jnp.arange(rows)[:, None], ids].set(True)[:, :-1]
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
    )
    return _write(state, logits, sampler=sampler, eos_ids=eos_ids)


def _read(params, prompts, model, response_length):
    """Logits after the prompts, [B, V], and the cache with room for the responses.

    The prompts are read into a cache of their own length: queries and keys are then
    the same tokens, and none is computed with empty places.
    """
    rows, length = prompts.tokens.shape
    empty = attention.init_cache(model.config, rows, length)
    found: Any = model.apply(
        {'params': params}, prompts.tokens, prompts.mask, empty, start=-1
    )
    logits, cache = found
    return logits[:, 0], attention.lengthen(cache, response_length)


def advance(
    params: Any,
    state: Decoding,
    *,
    model: transformer.CausalLM,
    sampler: sampling.Sampler,
    eos_ids: tuple[int, ...],
) -> Decoding:
    """Samples one more token of each row that has not ended."""
    before = (state.column - 1) % state.tokens.shape[1]
    last = jax.lax.dynamic_slice_in_dim(state.tokens, before, 1, axis=1)
    logits, cache = model.apply(
        {'params': params}, last, state.alive()[:, None], state.cache
    )
    state = state.replace(cache=cache)
    return _write(state, logits[:, 0], sampler=sampler, eos_ids=eos_ids)


def _write(state: Decoding, logits, *, sampler, eos_ids) -> Decoding:
    """Samples a token per row from logits [B, V] and writes it at `column`."""
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
    filtered = sampling.filter_logits(logits, sampler, state.seen)
    sampled = sampling.sample(keys, filtered, sampler)
    logps = causal_lm.token_logps(
        logits[:, None], sampled[:, None], temperature=sampler.temperature or 1.0
    )
    alive = state.alive()
    start = (0, state.column)
    old = jax.lax.dynamic_slice_in_dim(state.tokens, state.column, 1, axis=1)
    # What stands after a row's end stays as it is.
    token = jnp.where(alive[:, None], sampled[:, None], old)
    ended = jnp.any(jnp.stack([sampled == eos for eos in eos_ids]), axis=0)
    seen = state.seen
    if seen is not None:
        rows = jnp.arange(seen.shape[0])
        seen = seen.at[rows, sampled].set(True)
    return state.replace(
        tokens=jax.lax.dynamic_update_slice(state.tokens, token, start),
        logps=jax.lax.dynamic_update_slice(
            state.logps, jnp.where(alive[:, None], logps, 0.0), start
        ),
        column=(state.column + 1) % state.tokens.shape[1],
        length=state.length + alive.astype(jnp.int32),
        done=state.done | (alive & ended),
        seen=seen,
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
