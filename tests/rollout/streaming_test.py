import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import compilation
from beaver_jax import types
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.rollout import scheduler
from beaver_jax.rollout import streaming
from tests import hlo as hlo_lib
from tests import tiny

PAD, RESPONSE, STEPS, TOP = 0, 12, 3, 2
SAMPLERS = (
    sampling.Sampler(0.0),
    sampling.Sampler(1.3, top_k=6, top_p=0.8, repetition_penalty=1.4),
    sampling.Sampler(),
)


def settings():
    model, _ = tiny.causal_lm()
    return continuous.Settings(
        model,
        sampler=None,
        eos_ids=(3,),
        pad_id=PAD,
        slots=4,
        prompt_lengths=(4, 8),
        response_length=RESPONSE,
        admitted=2,
        alternatives=TOP,
    )


@functools.cache
def warm():
    model, params = tiny.causal_lm()
    unstacked = transformer.unstack(params, model.config)
    made = streaming.Streamer(unstacked, jax.random.key(9), settings(), STEPS)
    made.warm_up()
    return made


def request(number, sampler, limit=RESPONSE, *, shows=False):
    tokens = np.arange(1, 2 + number % 8)
    return scheduler.Request(number, tokens, limit, sampler, shows)


def drained(streamer):
    """The pieces of each request."""
    found = {}
    while not streamer.idle:
        for piece in streamer.stream():
            found.setdefault(piece.request, []).append(piece)
    return found


def tokens(pieces):
    return np.concatenate([piece.tokens for piece in pieces]).tolist()


@functools.cache
def alone(sampler):
    """Tokens of prompts 0 to 13 that are generated together with a static sampler."""
    model, params = tiny.causal_lm()
    length = 1 + np.arange(14) % 8
    mask = np.arange(8) >= 8 - length[:, None]
    prompts = types.PromptBatch(
        np.where(mask, np.arange(8) - 7 + length[:, None], PAD), mask, np.arange(14)
    )
    sample = functools.partial(
        generate.generate,
        model=model,
        response_length=RESPONSE,
        sampler=sampler,
        eos_ids=(3,),
        pad_id=PAD,
    )
    samples = jax.jit(sample)(params, prompts, jax.random.key(9))
    rows = zip(samples.tokens[:, 8:], samples.response_mask, strict=True)
    return [row[mask].tolist() for row, mask in rows]


def test_each_row_is_what_its_own_sampler_gives_it_alone():
    streamer = warm()
    asked = [request(i, SAMPLERS[i % 3]) for i in range(11)]
    streamer.submit(asked)
    found = drained(streamer)
    for one in asked:
        assert tokens(found[one]) == alone(one.sampler)[one.number]
    assert len({len(tokens(pieces)) for pieces in found.values()}) > 2


def test_pieces_are_a_few_tokens_and_only_the_last_says_that_it_is():
    streamer = warm()
    streamer.submit([request(i, SAMPLERS[2]) for i in range(6)])
    for pieces in drained(streamer).values():
        assert [piece.ended for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert all(1 <= len(piece.tokens) <= STEPS + 1 for piece in pieces)
        assert pieces[-1].truncated == (tokens(pieces)[-1] != 3)


def test_nothing_compiles_after_warming_up():
    streamer = warm()
    with compilation.Counter() as counter:
        asked = [request(i, SAMPLERS[i % 3], shows=i == 2) for i in range(7)]
        streamer.submit(asked)
        streamer.stream()
        streamer.cancel([asked[0], asked[6]])
        drained(streamer)
        assert counter.programs == 0


def test_who_is_cancelled_gets_no_more_and_the_others_what_they_would():
    streamer = warm()
    asked = [request(i, SAMPLERS[0]) for i in (0, 4, 6, 9, 12, 13)]
    streamer.submit(asked)
    first = {piece.request for piece in streamer.stream()}
    assert asked[1] in first and asked[5] not in first
    streamer.cancel([asked[1], asked[5]])  # one in a slot, one that waits
    found = drained(streamer)
    assert asked[1] not in found and asked[5] not in found
    streamer.submit([asked[5]])
    assert tokens(drained(streamer)[asked[5]]) == alone(SAMPLERS[0])[13]


def test_alternatives_and_log_probabilities_are_the_models_own():
    # At temperature 1 and before the filters, whatever the request's are.
    streamer = warm()
    one = request(4, SAMPLERS[1], shows=True)
    streamer.submit([request(3, SAMPLERS[0]), one])
    pieces = drained(streamer)[one]
    model, params = tiny.causal_lm()
    ids = jnp.array([[*one.tokens, *tokens(pieces)]])
    logits, _ = jax.jit(model.apply)({'params': params}, ids, jnp.ones(ids.shape, bool))
    logps = np.asarray(jax.nn.log_softmax(logits[0, len(one.tokens) - 1 : -1]))
    order = np.argsort(-logps, axis=-1)[:, :TOP]
    top_tokens = np.concatenate([piece.top_tokens for piece in pieces])
    np.testing.assert_array_equal(top_tokens, order)
    np.testing.assert_allclose(
        np.concatenate([piece.top_logps for piece in pieces]),
        np.take_along_axis(logps, order, axis=1),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        np.concatenate([piece.logps for piece in pieces]),
        logps[np.arange(len(logps)), tokens(pieces)],
        atol=1e-5,
    )


def test_sorting_is_left_to_rows_that_need_it_and_no_step_copies_the_cache():
    model, params = tiny.causal_lm()
    given = settings()
    state = jax.eval_shape(functools.partial(continuous.empty, given))
    unstacked = transformer.unstack(params, model.config)
    hlo = (
        jax.jit(functools.partial(continuous.advance, settings=given), donate_argnums=1)
        .lower(unstacked, state, 9, 4)
        .compile()
        .as_text()
    )
    branches = [line for line in hlo.splitlines() if ' conditional(' in line]
    assert len(branches) == 3  # penalties, filters, alternatives
    cache = 4 * 2 * given.places * 6  # [B, H, S, A]
    moves = {'copy', 'transpose', 'concatenate', 'pad', 'scatter'}
    assert not moves & {op for op, size in hlo_lib.in_loops(hlo) if size == cache}


def test_a_step_must_fit_the_places():
    _, params = tiny.causal_lm()
    with pytest.raises(ValueError, match='steps=20 of the 20 places of a slot'):
        streaming.Streamer(params, jax.random.key(0), settings(), 20)
