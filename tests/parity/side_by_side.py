"""The same batch and the same prompts through PyTorch and through us."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import torch

from beaver_jax import types
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling

VOCAB = 61


def shake(model):
    """Makes biases and norms random as well; returns the model for evaluation."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('bias') or 'norm' in name or '.ln_' in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch():
    """Tokens and masks: rows unpadded, left padded, right padded, padded twice."""
    tokens = np.random.default_rng(0).integers(1, VOCAB, (4, 12))
    mask = np.ones((4, 12), bool)
    mask[1, :5] = mask[2, 7:] = mask[3, :2] = mask[3, 10:] = False
    return np.where(mask, tokens, 0), mask


def prompts():
    """Left-padded prompts of 3, 5 and 6 tokens."""
    tokens = np.random.default_rng(1).integers(1, VOCAB, (3, 6))
    mask = np.arange(6)[None] >= 6 - np.array([[3], [5], [6]])
    return np.where(mask, tokens, 0), mask


def torch_inputs(model, tokens, mask):
    """Arguments of a forward pass."""
    found = {
        'input_ids': torch.tensor(tokens),
        'attention_mask': torch.tensor(mask).long(),
    }
    # Some models count positions themselves.
    if 'position_ids' in inspect.signature(model.forward).parameters:
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        found['position_ids'] = torch.tensor(positions)
    return found


def torch_logits(model, tokens, mask):
    with torch.no_grad():
        return model(**torch_inputs(model, tokens, mask)).logits.numpy()


def jax_logits(model, params, tokens, mask):
    logits, _ = jax.jit(model.apply)({'params': params}, tokens, mask)
    return np.asarray(logits)


def torch_greedy(model, tokens, mask, length):
    with torch.no_grad():
        out = model.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=0,
        )
    return out.numpy()[:, tokens.shape[1] :]


def jax_greedy(model, params, tokens, mask, length, **settings):
    sampler = sampling.Sampler(temperature=0.0, **settings)
    rows = jnp.arange(len(tokens), dtype=jnp.int32)
    batch = types.PromptBatch(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask), rows)
    samples = jax.jit(
        functools.partial(
            generate.generate,
            model=model,
            response_length=length,
            sampler=sampler,
            eos_ids=(VOCAB,),
            pad_id=0,
        )
    )(params, batch, jax.random.key(0))
    return np.asarray(samples.tokens)[:, tokens.shape[1] :]
