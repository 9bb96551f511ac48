"""Mistral (arXiv 2310.06825): LLaMA with a sliding window in every layer."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import llama


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    hf = {'num_key_value_heads': 8, 'max_position_embeddings': 131_072, **hf}
    return llama.sizes(hf) | {
        'activation': family.activation(hf.get('hidden_act', 'silu')),
        # Without the field, the configuration's own default is 4096; null is no window.
        'window': hf.get('sliding_window', 4096),
    }


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    return llama.sizes_to_hf(config) | {'sliding_window': config.window}


FAMILY = family.Family('mistral', 'MistralForCausalLM', llama.MODULES, from_hf, to_hf)
