"""Supervised fine-tuning."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.losses import causal_lm
from beaver_jax.models import transformer
from beaver_jax.steps import state as state_lib


class SftState(struct.PyTreeNode):
    """State of supervised fine-tuning."""

    step: jax.Array  # [] int32
    model: state_lib.Learner


def init(params: Any, optimizer: optax.GradientTransformation) -> SftState:
    """The state before the first step."""
    return SftState(jnp.zeros((), jnp.int32), state_lib.init_learner(params, optimizer))


def sft_loss(
    params: Any, batch: types.SftBatch, *, model: transformer.CausalLM
) -> tuple[jax.Array, state_lib.Aux]:
    """Causal LM loss of a batch; its weight is the number of tokens learnt."""
    logps = scoring.sequence_logps(
        model, params, batch.tokens, batch.mask, batch.segments
    )
    counted = batch.loss_mask[:, 1:]
    loss = causal_lm.causal_lm_loss(logps, counted)
    return loss, state_lib.Aux(jnp.sum(counted), {'train/loss': loss})


def sft_step(
    state: SftState,
    batch: types.SftBatch,
    key: jax.Array,
    *,
    model: transformer.CausalLM,
    optimizer: optax.GradientTransformation,
    parts: int = 1,
) -> tuple[SftState, dict[str, jax.Array]]:
    """One update on a batch of demonstrations.

    Args:
      state: Donated by the caller.
      batch: B rows.
      key: Unused; every step has one.
      model: The language model.
      optimizer: Moves it.
      parts: Backward passes that the batch is cut into; divides B.
    """
    del key

    def loss_fn(params, part):
        return sft_loss(params, part, model=model)

    grads, metrics, _ = state_lib.gradients(
        loss_fn, state.model.params, batch, parts=parts
    )
    learner = state_lib.apply_gradients(state.model, grads, optimizer)
    metrics = metrics | {
        'train/grad_norm': optax.tree.norm(grads),
        'train/bad_steps': state_lib.bad_steps(learner),
    }
    return SftState(state.step + 1, learner), metrics


def sft_eval(
    params: Any, batch: types.SftBatch, *, model: transformer.CausalLM
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """(sum, count) over learnt tokens by name: 'loss', and 'accuracy' of the argmax."""
    hidden: Any = model.apply(
        {'params': params},
        batch.tokens,
        batch.mask,
        batch.segments,
        method='hidden_states',
    )

    def measure(logits, tokens):
        hits = (jnp.argmax(logits, axis=-1) == tokens).astype(jnp.float32)
        return causal_lm.token_logps(logits, tokens), hits

    targets, counted = batch.tokens[:, 1:], batch.loss_mask[:, 1:]
    logps, hits = scoring.of_tokens(measure, model, params, hidden[:, :-1], targets)
    count = jnp.sum(counted).astype(jnp.float32)
    return {
        'loss': (-jnp.sum(jnp.where(counted, logps, 0.0)), count),
        'accuracy': (jnp.sum(jnp.where(counted, hits, 0.0)), count),
    }
