"""Qwen2 and Qwen2.5 (arXiv 2407.10671): LLaMA with biases on q, k and v."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.models import config as config_lib
from beaver_jax.models.families import family
from beaver_jax.models.families import llama


def windows(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The upper layers see a window where `use_sliding_window` says so."""
    window = hf.get('sliding_window', 4096) if hf.get('use_sliding_window') else None
    if window is None:
        return {'window': None}
    first = hf.get('max_window_layers', 28)
    by_depth = tuple(i >= first for i in range(hf['num_hidden_layers']))
    return {'window': window, 'windowed': family.layer_types(hf) or by_depth}


def windows_to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """The inverse of `windows`."""
    flags = config.layer_windows()
    return {
        'use_sliding_window': config.window is not None,
        'sliding_window': config.window,
        'max_window_layers': flags.index(True) if any(flags) else len(flags),
        'layer_types': family.layer_types_to_hf(config),
    }


def from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """See `family.Family`."""
    hf = {'num_key_value_heads': 32, 'max_position_embeddings': 32_768, **hf}
    activation = family.activation(hf.get('hidden_act', 'silu'))
    fields = {'activation': activation, 'qkv_bias': True}
    return llama.sizes(hf) | windows(hf) | fields


def to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """See `family.Family`."""
    return llama.sizes_to_hf(config) | windows_to_hf(config)


FAMILY = family.Family('qwen2', 'Qwen2ForCausalLM', llama.MODULES, from_hf, to_hf)
