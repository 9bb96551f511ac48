"""Compiled generation over static shapes.

One prefill, then a while loop that ends when every row has: `advance` is its body,
and also what chat calls token by token. The KV cache is carried, updated in place.
Axes: B rows, P prompt, G response, V vocabulary.
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
    """A generation under way; `step` tokens of each response are written."""

    prompts: types.PromptBatch
    tokens: jax.Array  # [B, G] int32, the pad id after a row's end
    logps: jax.Array  # [B, G] float32
    length: jax.Array  # [B] int32, response tokens so far, the EOS included
    done: jax.Array  # [B] bool, the row's EOS was sampled
    keys: jax.Array  # [B] one random key per row
    seen: jax.Array | None  # [B, V] bool, for a repetition penalty
    cache: attention.Cache
    step: jax.Array  # [] int32


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
) -> Decoding:
    """Reads the prompts and samples the first token of each response.

    Args:
      params: Of the policy.
      prompts: B left-padded prompts.
      key: Random key; a row uses fold_in(key, prompts.row), so that its result depends
        on neither its place in the batch nor its neighbours.
      model: The policy.
      response_length: G, the most tokens of a response.
      sampler: How tokens are chosen.
      eos_ids: Tokens that end a response.
      pad_id: Written after a response's end.
    """
    rows, prompt_length = prompts.tokens.shape
    empty = attention.init_cache(model.config, rows, prompt_length + response_length)
    read: Any = model.apply(
        {'params': params}, prompts.tokens, prompts.mask, empty, start=-1
    )
    logits, cache = read
    seen = None
    if sampler.repetition_penalty != 1:
        ids = jnp.where(prompts.mask, prompts.tokens, model.config.vocab_size)
        seen = jnp.zeros((rows, model.config.vocab_size + 1), bool)
        seen = seen.at[jnp.arange(rows)[:, None], ids].set(True)[:, :-1]
    state = Decoding(
        prompts=prompts,
        tokens=jnp.full((rows, response_length), pad_id, jnp.int32),
        logps=jnp.zeros((rows, response_length)),
        length=jnp.zeros(rows, jnp.int32),
        done=jnp.zeros(rows, bool),
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, prompts.row),
        seen=seen,
        cache=cache,
        step=jnp.zeros((), jnp.int32),
    )
    return _write(state, logits[:, 0], sampler=sampler, eos_ids=eos_ids)


def advance(
    params: Any,
    state: Decoding,
    *,
    model: transformer.CausalLM,
    sampler: sampling.Sampler,
    eos_ids: tuple[int, ...],
) -> Decoding:
    """Samples one more token of each row that has not ended."""
    last = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, axis=1)
    alive = ~state.done[:, None]
    logits, cache = model.apply({'params': params}, last, alive, state.cache)
    state = state.replace(cache=cache)
    return _write(state, logits[:, 0], sampler=sampler, eos_ids=eos_ids)


def _write(state: Decoding, logits, *, sampler, eos_ids) -> Decoding:
    """Samples a token per row from logits [B, V] and writes it at `step`."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
    filtered = sampling.filter_logits(logits, sampler, state.seen)
    sampled = sampling.sample(keys, filtered, sampler)
    logps = causal_lm.token_logps(
        logits[:, None], sampled[:, None], temperature=sampler.temperature or 1.0
    )
    alive = ~state.done[:, None]
    start = (0, state.step)
    old = jax.lax.dynamic_slice_in_dim(state.tokens, state.step, 1, axis=1)
    token = jnp.where(alive, sampled[:, None], old)  # the pad id stays after the end
    ended = jnp.any(jnp.stack([sampled == eos for eos in eos_ids]), axis=0)
    seen = state.seen
    if seen is not None:
        rows = jnp.arange(seen.shape[0])
        seen = seen.at[rows, sampled].set(True)
    return state.replace(
        tokens=jax.lax.dynamic_update_slice(state.tokens, token, start),
        logps=jax.lax.dynamic_update_slice(
            state.logps, jnp.where(alive, logps, 0.0), start
        ),
        length=state.length + alive[:, 0].astype(jnp.int32),
        done=state.done | ended,
        seen=seen,
        step=state.step + 1,
    )


def finish(state: Decoding) -> types.Samples:
    """The responses as samples."""
    response_length = state.tokens.shape[1]
    response_mask = jnp.arange(response_length)[None] < state.length[:, None]
    return types.Samples(
        tokens=jnp.concatenate([state.prompts.tokens, state.tokens], axis=1),
        mask=jnp.concatenate([state.prompts.mask, response_mask], axis=1),
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

    Args: see `begin`; samples_per_prompt repeats each prompt, copies side by side.

    Returns:
      Samples of B × samples_per_prompt rows.
    """
    if samples_per_prompt > 1:
        copies = jnp.tile(jnp.arange(samples_per_prompt), prompts.row.shape[0])
        prompts = jax.tree.map(
            lambda x: jnp.repeat(x, samples_per_prompt, axis=0), prompts
        )
        prompts = prompts.replace(row=prompts.row * samples_per_prompt + copies)
    params = transformer.unstack(params, model.config)
    state = begin(
        params,
        prompts,
        key,
        model=model,
        response_length=response_length,
        sampler=sampler,
        eos_ids=eos_ids,
        pad_id=pad_id,
    )

    def goes_on(state):
        return (state.step < response_length) & ~jnp.all(state.done)

    def body(state):
        return advance(params, state, model=model, sampler=sampler, eos_ids=eos_ids)

    return finish(jax.lax.while_loop(goes_on, body, state))
