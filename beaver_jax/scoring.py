"""What models say of sequences: log-probabilities, values, end scores.

Axes: B rows, T tokens, P prompt, G response, V vocabulary; T = P + G. The value and
the distribution of a response token stand at the position before it. With packs the
models read R of them instead of the B rows, and what they say is picked from there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.losses import causal_lm
from beaver_jax.models import lora
from beaver_jax.models import score
from beaver_jax.models import transformer

# Of automatic `logits_chunk`: so many numbers at a time, 16 MiB, and no fewer tokens,
# for each part reads the whole projection.
CHUNK_NUMBERS = 2**22
CHUNK = 1024


def sequence_logps(
    model: transformer.CausalLM,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None = None,
) -> jax.Array:
    """log π of every token but the first: [B, T] to [B, T - 1] float32.

    With segments, [B, T], a token is given those before it in its own; what is said of
    a segment's first token means nothing.
    """
    hidden: Any = model.apply(
        {'params': params}, tokens, mask, segments, method='hidden_states'
    )
    hidden = hidden[:, :-1]
    return of_tokens(causal_lm.token_logps, model, params, hidden, tokens[:, 1:])


def response_logps(
    model: transformer.CausalLM,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    response_length: int,
    temperature: float = 1.0,
    packs: types.Packs | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the response tokens, and the policy's entropy there.

    Args:
      model: The policy.
      params: Its parameters.
      tokens: [B, T] int32, prompt and response.
      mask: [B, T] bool.
      response_length: G.
      temperature: That of sampling: the scored policy is the sampled one.
      packs: Where the rows stand without their padding, or None.

    Returns:
      (logps [B, G], entropy [B, G] in nats), float32; arbitrary where mask is False.
    """
    start = tokens.shape[1] - response_length
    hidden: Any
    if packs is None:
        hidden = model.apply(
            {'params': params},
            tokens,
            mask,
            wanted=slice(start - 1, -1),
            method='hidden_states',
        )
    else:
        laid = laid_out(tokens, packs)
        hidden = model.apply({'params': params}, *laid, method='hidden_states')
        hidden = picked(hidden, packs.places[:, :-1])

    def measure(logits, tokens):
        logps = causal_lm.token_logps(logits, tokens, temperature=temperature)
        return logps, causal_lm.entropy(logits, temperature=temperature)

    return of_tokens(measure, model, params, hidden, tokens[:, start:])


def of_tokens(
    measure: Callable[[jax.Array, jax.Array], Any],
    model: transformer.CausalLM,
    params: Any,
    hidden: jax.Array,
    tokens: jax.Array,
) -> Any:
    """What is measured of tokens, without the logits of all of them in memory.

    Logits are made of `logits_chunk` tokens at a time, and made again in the backward
    pass: V numbers a token are much more than the D that they are made of.

    Args:
      measure: (logits [1, N, V], tokens [1, N]) to a pytree of [1, N].
      model: The language model.
      params: Its parameters.
      hidden: [B, T, D]; at t what tokens[:, t] is scored by.
      tokens: [B, T] int32.

    Returns:
      A pytree of [B, T].
    """
    model, params = lora.plain(model, params)
    config = model.config

    def of_rows(head, rows):
        hidden, tokens = rows

        def of_part(part):
            hidden, tokens = (x[None] for x in part)
            logits: Any = model.apply({'params': head}, hidden, method='logits_of')
            return jax.tree.map(lambda x: x[0], measure(logits, tokens))

        flat = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
        size = config.logits_chunk
        if size is None:
            size = max(CHUNK, CHUNK_NUMBERS // config.vocab_size)
        found = by_parts(of_part, flat, size or tokens.size)
        return jax.tree.map(lambda x: x.reshape(tokens.shape), found)

    head = transformer.head_of(params, config)
    return sharding.on_own_rows(of_rows, head, (hidden, tokens))


def by_parts(fn: Callable[[Any], Any], tree: Any, size: int) -> Any:
    """fn of [N, ...] arrays, at most `size` of N at a time, recomputed for gradients.

    The parts are of one size, the last one filled up with zeros.
    """
    count = jax.tree.leaves(tree)[0].shape[0]
    parts = -(-count // size)
    if parts == 1:
        return fn(tree)
    size = -(-count // parts)

    def split(x):
        padding = ((0, parts * size - count),) + ((0, 0),) * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(parts, size, *x.shape[1:])

    found = jax.lax.map(jax.checkpoint(fn), jax.tree.map(split, tree))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def laid_out(
    tokens: jax.Array, packs: types.Packs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows [B, T] as packs: tokens, mask and segments, [R, T] each."""

    def of_own(_, own):
        tokens, source = own
        return tokens.reshape(-1)[jnp.maximum(source, 0)]

    mask = packs.source >= 0
    laid = sharding.on_own_rows(of_own, (), (tokens, packs.source))
    return jnp.where(mask, laid, 0), mask, packs.segments


def picked(x: jax.Array, places: jax.Array) -> jax.Array:
    """What packs hold at places: [R, T, ...] and [B, n] to [B, n, ...]."""

    def of_own(_, own):
        x, places = own
        return x.reshape(-1, *x.shape[2:])[places]

    return sharding.on_own_rows(of_own, (), (x, places))


def response_values(
    model: score.ScoreModel,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    response_length: int,
    packs: types.Packs | None = None,
) -> jax.Array:
    """Values before each response token and after the last: [B, T] to [B, G + 1]."""
    scores: Any
    if packs is not None:
        scores = model.apply({'params': params}, *laid_out(tokens, packs))
        return picked(scores[..., 0], packs.places)
    wanted = slice(tokens.shape[1] - response_length - 1, None)
    scores = model.apply({'params': params}, tokens, mask, wanted=wanted)
    return scores[..., 0]


def end_scores(
    model: score.ScoreModel,
    params: Any,
    normalizer: score.Normalizer,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    normalize: bool = False,
    packs: types.Packs | None = None,
) -> jax.Array:
    """Scores of whole sequences, [B, outputs], normalized where asked.

    Args:
      model: A reward or cost model.
      params: Its parameters.
      normalizer: Its statistics.
      tokens: [B, T] int32.
      mask: [B, T] bool.
      normalize: Normalize by the model's type: rewards affinely, costs by scale.
      packs: Where the rows stand without their padding, or None.
    """
    scores: Any
    if packs is None:
        scores = model.apply({'params': params}, tokens, mask, wanted=score.ends(mask))
        ends = scores[:, 0]
    else:
        scores = model.apply({'params': params}, *laid_out(tokens, packs))
        ends = picked(scores, packs.places[:, -1:])[:, 0]
    if not normalize:
        return ends
    function = score.NORMALIZE_FUNCTIONS[model.config.score_type]
    return score.normalize(normalizer, ends, function=function)
