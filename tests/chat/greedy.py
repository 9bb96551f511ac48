"""What a model answers, by one compiled generation."""

import jax
import jax.numpy as jnp

from beaver_jax import types
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.rollout import generate
from tests.chat import conftest


def answer(directory, ids, count, dtype='float32'):
    """The greedy answer, without the EOS."""
    tokenizer = tokenizer_lib.load(directory)
    lm, params = hf.load_causal_lm(directory, param_dtype=dtype, dtype=dtype)
    samples = generate.generate(
        params,
        types.PromptBatch(
            tokens=jnp.array([ids], jnp.int32),
            mask=jnp.ones((1, len(ids)), bool),
            row=jnp.zeros(1, jnp.int32),
        ),
        jax.random.key(0),
        model=lm,
        response_length=count,
        sampler=conftest.GREEDY,
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
    )
    tokens = samples.tokens[0, len(ids) :][samples.response_mask[0]].tolist()
    return [token for token in tokens if token != tokenizer.eos_token_id]
