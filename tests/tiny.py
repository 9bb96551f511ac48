"""Models of a few thousand parameters, for tests of what is built on them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import sharding
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.models import transformer

_LAYERS_AND_BIASES = {
    'norm': 'layer',
    'gated': False,
    'qkv_bias': True,
    'o_bias': True,
    'mlp_bias': True,
}
# What makes a decoder one of another family; see `config`.
GPT_NEOX: dict[str, Any] = _LAYERS_AND_BIASES | {
    'family': 'gpt_neox',
    'residual': 'parallel',
    'activation': 'gelu',
}
GPT2: dict[str, Any] = _LAYERS_AND_BIASES | {
    'family': 'gpt2',
    'positions': 'learned',
    'activation': 'gelu_tanh',
    'tie_embeddings': True,
    'num_kv_heads': 4,
    'head_dim': 4,
}


def config(**changes: Any) -> config_lib.TransformerConfig:
    """A decoder with grouped heads whose weights are large enough to matter."""
    fields = {
        'vocab_size': 13,
        'embed_dim': 16,
        'num_layers': 2,
        'num_heads': 4,
        'num_kv_heads': 2,
        'head_dim': 6,  # not embed_dim / num_heads
        'mlp_dim': 24,
        'init_std': 0.3,
    }
    return config_lib.TransformerConfig(**(fields | changes))


def init(model: Any, seed: int = 0) -> Any:
    """Random parameters, the biases and scales too, made without compiling."""
    random = np.random.default_rng(seed)

    def make(path, leaf):
        noise = random.standard_normal(leaf.shape, np.float32)
        name = sharding.path_string(path).rpartition('/')[2]
        mean, std = {'scale': (1, 0.1), 'bias': (0, 0.1)}.get(name, (0, 0.3))
        return jnp.asarray(mean + std * noise)

    return jax.tree_util.tree_map_with_path(make, hf.abstract_params(model))


@functools.cache
def causal_lm(seed: int = 0, **changes: Any) -> tuple[transformer.CausalLM, Any]:
    """A language model and its parameters."""
    model = transformer.CausalLM(config(**changes))
    return model, init(model, seed)


def score_model(
    seed: int = 0, *, backbone: dict[str, Any] | None = None, **changes: Any
) -> tuple[score.ScoreModel, Any]:
    """A score model and its parameters."""
    model = score.ScoreModel(
        config_lib.ScoreConfig(backbone=config(**(backbone or {})), **changes)
    )
    return model, init(model, seed)
