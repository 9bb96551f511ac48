import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from beaver_jax import compilation
from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.models import hf
from beaver_jax.models import transformer
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from tests import hlo as hlo_lib
from tests import tiny

GREEDY = sampling.Sampler(temperature=0.0)
NEVER = (99,)  # an id that the vocabulary does not have
PAD = 0
PROMPT, RESPONSE = 4, 7


@functools.lru_cache
def prompts(rows=6):
    """Left-padded prompts of 2, 3, 4, 2, … tokens."""
    tokens = jax.random.randint(jax.random.key(7), (rows, PROMPT), 1, 13)
    length = 2 + jnp.arange(rows) % 3
    mask = jnp.arange(PROMPT)[None] >= PROMPT - length[:, None]
    return types.PromptBatch(
        tokens=jnp.where(mask, tokens, PAD), mask=mask, row=jnp.arange(rows)
    )


@functools.cache
def sampler_fn(model, sampler, eos_ids, samples_per_prompt=1):
    return jax.jit(
        functools.partial(
            generate.generate,
            model=model,
            response_length=RESPONSE,
            sampler=sampler,
            eos_ids=eos_ids,
            pad_id=PAD,
            samples_per_prompt=samples_per_prompt,
        )
    )


def generated(batch, sampler=GREEDY, eos_ids=NEVER, *, key=0, copies=1, **changes):
    model, params = tiny.causal_lm(**changes)
    return sampler_fn(model, sampler, eos_ids, copies)(
        params, batch, jax.random.key(key)
    )


@functools.partial(jax.jit, static_argnames='model')
def last_logits(model, params, tokens, length):
    """The logits after the first `length` of right-padded tokens [T]."""
    mask = jnp.arange(tokens.shape[0])[None] < length
    logits, _ = model.apply({'params': params}, tokens[None], mask)
    return logits[0, length - 1]


@functools.partial(jax.jit, static_argnums=(0, 3))
def scored(model, params, samples, temperature):
    logps, _ = scoring.response_logps(
        model,
        params,
        samples.tokens,
        samples.mask,
        response_length=RESPONSE,
        temperature=temperature,
    )
    return logps


def greedy_by_full_passes(row, penalty=1.0, eos=None):
    """The response to an unpadded prompt, one full pass a token."""
    model, params = tiny.causal_lm()
    tokens = list(row)
    while len(tokens) < len(row) + RESPONSE:
        padded = np.zeros(PROMPT + RESPONSE, np.int32)
        padded[: len(tokens)] = tokens
        logits = np.array(last_logits(model, params, padded, len(tokens)))
        seen = sorted(set(tokens))
        shrunk = np.where(logits > 0, logits / penalty, logits * penalty)
        logits[seen] = shrunk[seen]
        tokens.append(int(np.argmax(logits)))
        if tokens[-1] == eos:
            break
    return tokens[len(row) :]


def real_prompts(batch):
    return [
        np.asarray(tokens)[np.asarray(mask)].tolist()
        for tokens, mask in zip(batch.tokens, batch.mask, strict=True)
    ]


def responses(samples):
    length = samples.response_mask.shape[1]
    return [
        np.asarray(tokens)[-length:][np.asarray(mask)].tolist()
        for tokens, mask in zip(samples.tokens, samples.response_mask, strict=True)
    ]


def test_greedy_generation_is_the_argmax_of_full_passes():
    samples = generated(prompts())
    expected = [greedy_by_full_passes(row) for row in real_prompts(prompts())]
    assert responses(samples) == expected
    assert len({token for row in expected for token in row}) > 3
    np.testing.assert_array_equal(samples.tokens[:, :PROMPT], prompts().tokens)
    np.testing.assert_array_equal(samples.mask[:, :PROMPT], prompts().mask)


def test_a_repetition_penalty_counts_prompt_and_response_but_no_padding():
    sampler = sampling.Sampler(temperature=0.0, repetition_penalty=1.7)
    expected = [
        greedy_by_full_passes(row, penalty=1.7) for row in real_prompts(prompts())
    ]
    assert responses(generated(prompts(), sampler)) == expected
    assert expected != [greedy_by_full_passes(row) for row in real_prompts(prompts())]


def test_an_eos_ends_its_row_and_no_other():
    free = responses(generated(prompts()))
    eos = next(token for token in free[0][1:-1] if token not in free[1])
    samples = generated(prompts(), eos_ids=(eos,))
    for row, found in zip(free, responses(samples), strict=True):
        end = row.index(eos) + 1 if eos in row else RESPONSE
        assert found == row[:end]  # the EOS included
    np.testing.assert_array_equal(samples.truncated, [eos not in row for row in free])
    assert not samples.truncated[0]
    assert samples.truncated[1]
    behind = samples.tokens[:, PROMPT:][~samples.response_mask]
    np.testing.assert_array_equal(behind, np.full_like(behind, PAD))
    np.testing.assert_array_equal(samples.logps[~samples.response_mask], 0)
    np.testing.assert_array_equal(samples.mask[:, PROMPT:], samples.response_mask)


def test_each_of_several_eos_ids_ends_a_row_even_at_the_last_place():
    free = responses(generated(prompts()))
    eos = (free[0][-1], free[1][1])
    samples = generated(prompts(), eos_ids=eos)
    for row, found, truncated in zip(
        free, responses(samples), samples.truncated, strict=True
    ):
        ends = [i for i, token in enumerate(row) if token in eos]
        assert found == row[: min([*ends, RESPONSE]) + 1]
        assert truncated == (not ends)
    assert len(responses(samples)[0]) == RESPONSE
    assert not samples.truncated[0]


@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_log_probabilities_are_those_of_the_finished_samples(temperature):
    model, params = tiny.causal_lm()
    sampler = sampling.Sampler(temperature=temperature)
    samples = generated(prompts(), sampler, eos_ids=(3,))
    mask = samples.response_mask
    assert 0 < np.sum(samples.truncated) < 6
    logps = scored(model, params, samples, temperature)
    np.testing.assert_allclose(samples.logps[mask], logps[mask], atol=1e-5)


def test_a_bfloat16_policy_samples_what_it_scores():
    model, params = tiny.causal_lm(dtype='bfloat16')
    samples = generated(prompts(), sampling.Sampler(), dtype='bfloat16')
    logps = scored(model, params, samples, 1.0)
    assert samples.logps.dtype == jnp.float32
    # bfloat16 rounds to 2⁻⁹ = 0.2% of logits of a few units, at every operation.
    np.testing.assert_allclose(samples.logps, logps, atol=0.15)


def test_a_row_depends_on_its_number_and_not_on_its_neighbours():
    sampler = sampling.Sampler()
    batch = prompts()
    whole = generated(batch, sampler, eos_ids=(3,))
    order = jnp.array([4, 1, 5])
    part = generated(jax.tree.map(lambda x: x[order], batch), sampler, eos_ids=(3,))
    np.testing.assert_array_equal(part.tokens, whole.tokens[order])
    np.testing.assert_allclose(part.logps, whole.logps[order], atol=1e-5)
    renumbered = batch.replace(row=batch.row + 100)
    assert responses(generated(renumbered, sampler, eos_ids=(3,))) != responses(whole)


def test_another_key_gives_other_samples():
    sampler = sampling.Sampler()
    first, second = (responses(generated(prompts(), sampler, key=k)) for k in (0, 1))
    assert first != second
    assert first == responses(generated(prompts(), sampler, key=0))


def test_several_samples_of_a_prompt_stand_side_by_side():
    sampler = sampling.Sampler()
    samples = generated(prompts(3), sampler, copies=2, eos_ids=(3,))
    assert samples.tokens.shape == (6, PROMPT + RESPONSE)
    np.testing.assert_array_equal(
        samples.tokens[:, :PROMPT], np.repeat(prompts(3).tokens, 2, axis=0)
    )
    drawn = responses(samples)
    assert all(drawn[i] != drawn[i + 1] for i in (0, 2, 4))
    # They are the samples of six prompts with numbers of their own.
    repeated = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), prompts(3))
    repeated = repeated.replace(row=jnp.arange(6))
    assert responses(generated(repeated, sampler, eos_ids=(3,))) == drawn


class Counting:
    """A model that counts how often it runs."""

    def __init__(self, model):
        self.model, self.config, self.calls = model, model.config, 0

    def count(self):
        self.calls += 1

    def apply(self, *args, **settings):
        jax.debug.callback(self.count)
        return self.model.apply(*args, **settings)


def test_generation_ends_when_every_row_has():
    model, params = tiny.causal_lm()
    free = responses(generated(prompts()))
    counting = Counting(model)
    # Every row ends at its third token, or before.
    eos_ids = tuple({row[2] for row in free})
    samples = sampler_fn(counting, GREEDY, eos_ids)(
        params, prompts(), jax.random.key(0)
    )
    jax.effects_barrier()
    steps = int(jnp.max(jnp.sum(samples.response_mask, axis=1)))
    assert 1 < steps <= 3
    assert counting.calls == steps  # reading the prompts gives the first token
    assert samples.tokens.shape == (6, PROMPT + RESPONSE)


def test_advancing_token_by_token_is_the_whole_loop():
    model, params = tiny.causal_lm()
    sampler = sampling.Sampler()
    settings = {'model': model, 'sampler': sampler, 'eos_ids': (3,)}
    state = jax.jit(
        functools.partial(
            generate.begin, response_length=RESPONSE, pad_id=PAD, **settings
        )
    )(params, prompts(), jax.random.key(0))
    advance = jax.jit(functools.partial(generate.advance, **settings))
    for step in range(1, RESPONSE):
        assert int(state.column) == step
        state = advance(params, state)
    samples = generate.finish(state, prompts())
    whole = generated(prompts(), sampler, eos_ids=(3,))
    np.testing.assert_array_equal(samples.tokens, whole.tokens)
    np.testing.assert_array_equal(samples.response_mask, whole.response_mask)
    np.testing.assert_array_equal(samples.truncated, whole.truncated)
    np.testing.assert_allclose(samples.logps, whole.logps, atol=1e-5)


def test_a_mesh_changes_no_sample():
    model, params = tiny.causal_lm(vocab_size=256, head_dim=8)
    fn = sampler_fn(model, sampling.Sampler(), (3,))
    expected = fn(params, prompts(8), jax.random.key(0))
    mesh = sharding.make_mesh(2, 2, 2)
    placed = jax.device_put(
        params, sharding.param_shardings(mesh, transformer.RULES, params)
    )
    with jax.set_mesh(mesh):
        batch = sharding.put_batch(mesh, prompts(8))
        compiled = fn.lower(placed, batch, jax.random.key(0)).compile()
        samples = compiled(placed, batch, jax.random.key(0))
    np.testing.assert_array_equal(samples.tokens, expected.tokens)
    np.testing.assert_allclose(samples.logps, expected.logps, atol=1e-5)
    assert samples.tokens.sharding.shard_shape(samples.tokens.shape)[0] == 2
    # Kernels are gathered over fsdp once, before the loop: what a step sends are sums
    # over tensor of a device's rows, [2, D], and what it samples by.
    sent = {
        (op, size)
        for op, size in hlo_lib.in_loops(compiled.as_text())
        if op.startswith(('all-', 'reduce-scatter', 'collective'))
    }
    assert ('all-reduce', 2 * 16) in sent
    smallest = 16 * 2 * 8 // 2  # [D, H·A] over two devices of tensor
    assert max(size for op, size in sent if op != 'all-reduce') < smallest


def test_a_second_batch_compiles_nothing():
    model, params = tiny.causal_lm()
    fn = sampler_fn(model, sampling.Sampler(), (3,))
    batches = [prompts(), prompts().replace(row=prompts().row + 3)]
    keys = [jax.random.key(5), jax.random.key(6)]
    fn(params, batches[0], keys[0])
    with compilation.Counter() as counter:
        fn(params, batches[1], keys[1])
        assert counter.programs == 0
        fn(params, prompts(2), keys[1])  # another shape
        assert counter.programs > 0


def test_no_step_copies_the_cache_or_slices_a_layer():
    model, params = tiny.causal_lm()
    fn = sampler_fn(model, sampling.Sampler(), (3,))
    compiled = fn.lower(params, prompts(), jax.random.key(0)).compile()
    instructions = hlo_lib.in_loops(compiled.as_text())
    cache = 6 * 2 * (PROMPT + RESPONSE) * 6  # [B, H, S, A]
    ops = {op for op, size in instructions if size == cache}
    assert 'dynamic-update-slice' in ops  # the loop has been found
    assert not ops & {'copy', 'transpose', 'concatenate', 'pad'}
    kernel = 16 * 24  # [D, F] and [D, N·A]
    ops = {op for op, size in instructions if size == kernel}
    assert 'get-tuple-element' in ops or 'parameter' in ops
    assert not ops & {'copy', 'slice', 'dynamic-slice', 'transpose'}


def test_a_copied_cache_would_be_found():
    def step(state):
        i, cache, x = state  # time before heads, as a matmul does not want it
        x = x + jnp.einsum(
            'BHQS,BSHA->BHQA', jnp.einsum('BHQA,BSHA->BHQS', x, cache), cache
        )
        return (
            i + 1,
            jax.lax.dynamic_update_slice(cache, x.swapaxes(1, 2), (0, i, 0, 0)),
            x,
        )

    def loop(cache, x):
        return jax.lax.while_loop(lambda state: state[0] < 9, step, (0, cache, x))

    hlo = jax.jit(loop).lower(jnp.ones((3, 11, 2, 6)), jnp.ones((3, 2, 1, 6))).compile()
    ops = {op for op, size in hlo_lib.in_loops(hlo.as_text()) if size == 3 * 11 * 2 * 6}
    assert ops & {'copy', 'transpose'}


def test_a_trained_model_tells_its_story(shared_data):
    """Greedy decoding from BOS, 200 steps in float32, is llama2.c's."""
    directory = shared_data / 'stories260K'
    model, params = hf.load_causal_lm(directory / 'hf')
    pieces = sentencepiece.SentencePieceProcessor(str(directory / 'tok512.model'))
    bos = types.PromptBatch(
        tokens=jnp.full((1, 1), pieces.bos_id(), jnp.int32),
        mask=jnp.ones((1, 1), bool),
        row=jnp.zeros(1, jnp.int32),
    )
    samples = jax.jit(
        functools.partial(
            generate.generate,
            model=model,
            response_length=200,
            sampler=GREEDY,
            eos_ids=(pieces.eos_id(),),
            pad_id=0,
        )
    )(params, bos, jax.random.key(0))
    text = pieces.decode(responses(samples)[0])
    expected = (directory / 'golden_greedy.txt').read_text().strip()
    assert text.strip() == expected
