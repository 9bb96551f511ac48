import functools

import jax
import numpy as np
import pytest

from beaver_jax import compilation
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.rollout import scheduler as scheduler_lib
from tests import hlo as hlo_lib
from tests import tiny

SAMPLER = sampling.Sampler()
PROMPT, RESPONSE, PAD = 8, 12, 0


@functools.lru_cache
def prompts(rows):
    """Left-padded prompts of 1 to 8 tokens, with numbers of their own."""
    tokens = np.asarray(jax.random.randint(jax.random.key(3), (rows, PROMPT), 1, 13))
    length = 1 + np.arange(rows) * 5 % PROMPT
    mask = np.arange(PROMPT)[None] >= PROMPT - length[:, None]
    return types.PromptBatch(np.where(mask, tokens, PAD), mask, np.arange(rows) + 40)


def settings(model, **changes):
    given = {
        'sampler': SAMPLER,
        'eos_ids': (3,),
        'pad_id': PAD,
        'slots': 4,
        'prompt_lengths': (4, 8),
        'response_length': RESPONSE,
        'admitted': 2,
    }
    return continuous.Settings(model, **given | changes)


def whole(model, params, batch, key, **changes):
    """All rows at once."""
    given = settings(model, **changes)
    return jax.jit(
        functools.partial(
            generate.generate,
            model=model,
            response_length=RESPONSE,
            sampler=given.sampler,
            eos_ids=given.eos_ids,
            pad_id=PAD,
            samples_per_prompt=given.samples_per_prompt,
        )
    )(params, batch, key)


def check_equal(found, expected):
    for name in ('tokens', 'mask', 'response_mask', 'truncated'):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.logps, expected.logps, atol=2e-5)


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'slots': 5, 'admitted': 3},  # neither divides the rows
        {'slots': 1, 'admitted': 1},
        {'slots': 6, 'samples_per_prompt': 3},
        {'sampler': sampling.Sampler(0.8, top_k=5, repetition_penalty=1.5)},
    ],
    ids=str,
)
def test_rows_that_come_and_go_are_those_of_one_batch(changes):
    model, params = tiny.causal_lm()
    batch, key = prompts(11), jax.random.key(9)
    found = scheduler_lib.respond(
        transformer.unstack(params, model.config),
        batch,
        key,
        settings=settings(model, **changes),
    )
    expected = whole(model, params, batch, key, **changes)
    check_equal(found, expected)
    lengths = np.sum(found.response_mask, axis=1)
    assert len(set(lengths)) > 3  # so rows do come and go
    assert 0 < np.sum(found.truncated) < len(lengths)


def test_a_mesh_changes_no_row_of_them():
    model, params = tiny.causal_lm(vocab_size=16, head_dim=8)
    batch, key = prompts(11), jax.random.key(9)
    expected = whole(model, params, batch, key)
    mesh = sharding.make_mesh(2, 2, 2)
    placed = jax.device_put(
        params, sharding.param_shardings(mesh, transformer.RULES, params)
    )
    with jax.set_mesh(mesh):
        found = scheduler_lib.respond(
            jax.jit(transformer.unstack, static_argnums=1)(placed, model.config),
            batch,
            key,
            settings=settings(model, admitted=4, slots=8),
        )
    check_equal(found, expected)


@functools.cache
def warm():
    """A scheduler that has compiled everything."""
    model, params = tiny.causal_lm()
    made = scheduler_lib.Scheduler(
        transformer.unstack(params, model.config), jax.random.key(9), settings(model)
    )
    made.warm_up()
    return made


def request(number, length, limit=RESPONSE):
    return scheduler_lib.Request(number, np.arange(1, length + 1), limit)


def drained(scheduler, **settings):
    found = []
    while not scheduler.idle:
        found += scheduler.step(**settings)
    return {one.request: one for one in found}


def test_nothing_compiles_after_warming_up():
    scheduler = warm()
    scheduler.submit([request(i, 1 + i % 8) for i in range(9)])
    with compilation.Counter() as counter:
        assert len(drained(scheduler)) == 9
        assert counter.programs == 0


def test_each_request_has_its_own_limit():
    scheduler = warm()
    free = [request(i, 3) for i in range(7)]
    bounded = [request(i, 3, limit=1 + i) for i in range(7)]
    scheduler.submit(free + bounded)
    found = drained(scheduler)
    cut = 0
    for one, other in zip(free, bounded, strict=True):
        tokens = found[one].tokens
        np.testing.assert_array_equal(found[other].tokens, tokens[: other.limit])
        assert found[other].truncated == (len(tokens) > other.limit)
        cut += found[other].truncated
    assert 0 < cut < 7


def test_a_bound_on_steps_hands_back_to_the_host_and_changes_nothing():
    scheduler = warm()
    few, many = ([request(i, 2) for i in range(5)] for _ in range(2))
    scheduler.submit(few)
    # Reading a prompt gives the first token, which may be the last.
    first = scheduler.step(steps=0)
    assert all(len(one.tokens) == 1 for one in first)
    one_by_one = {one.request: one for one in first} | drained(scheduler, steps=1)
    scheduler.submit(many)
    at_once = drained(scheduler)
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one_by_one[one].tokens, at_once[other].tokens)


def test_what_a_row_said_waits_unchanged_until_the_last_has_ended():
    model, params = tiny.causal_lm()
    scheduler = scheduler_lib.Scheduler(
        transformer.unstack(params, model.config),
        jax.random.key(9),
        settings(model, slots=2, admitted=1, eos_ids=(99,), prompt_lengths=(4,)),
    )
    # Of 16 places. The first row ends at step 12; the third, which came at step 9 for
    # the second, at step 21: from step 16 on it writes where the first one did.
    first, second, third = (request(i, 3, limit) for i, limit in enumerate((12, 9, 12)))
    scheduler.submit([first])
    alone = drained(scheduler)[first]
    again = request(0, 3, 12)
    scheduler.submit([again, second, third])
    found = drained(scheduler)[again]
    np.testing.assert_array_equal(found.tokens, alone.tokens)
    np.testing.assert_allclose(found.logps, alone.logps, atol=2e-5)
    assert np.all(found.logps < 0)


def test_slots_must_hold_an_admission():
    model, _ = tiny.causal_lm()
    with pytest.raises(ValueError, match='4 slots do not hold 2 prompts of 3 samples'):
        settings(model, samples_per_prompt=3)


def test_no_step_copies_the_cache():
    model, params = tiny.causal_lm()
    given = settings(model)
    state = jax.eval_shape(functools.partial(continuous.empty, given))
    unstacked = transformer.unstack(params, model.config)
    advance = jax.jit(
        functools.partial(continuous.advance, settings=given), donate_argnums=1
    )
    hlo = advance.lower(unstacked, state, 9, 4).compile().as_text()
    cache = 4 * 2 * (PROMPT + RESPONSE) * 6  # [B, H, S, A]
    ops = {op for op, size in hlo_lib.in_loops(hlo) if size == cache}
    assert 'dynamic-update-slice' in ops
    moves = {'copy', 'transpose', 'concatenate', 'pad', 'scatter'}
    assert not ops & moves
    # Nor is it copied outside of the loop: it is the caller's, who donates it.
    everywhere = hlo_lib.instructions(hlo.splitlines())
    assert not moves & {op for op, size in everywhere if size == cache}


@pytest.mark.parametrize(
    'changes',
    [{'positions': 'alibi'}, {'window': 3, 'windowed': (True, False)}],
    ids=['alibi', 'window'],
)
def test_what_counts_places_counts_round_the_ring(changes):
    model, params = tiny.causal_lm(**changes)
    batch, key = prompts(11), jax.random.key(9)
    found = scheduler_lib.respond(
        transformer.unstack(params, model.config), batch, key, settings=settings(model)
    )
    check_equal(found, whole(model, params, batch, key))
