"""What a Hugging Face family is, and what several of them write alike."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

from beaver_jax.models import config as config_lib

# Names of activations in config.json; several are one function.
ACTIVATIONS = {
    'silu': 'silu',
    'swish': 'silu',
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_fast': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'relu': 'relu',
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A config translation and a name table over the one decoder.

    Attributes:
      model_type: In config.json.
      architecture: Class of its causal LM in `transformers`.
      modules: Our modules' paths to theirs, '{}' for the layer's number. Modules that
        share a name of theirs are parts of one tensor, in this order.
      from_hf: config.json to fields of a TransformerConfig. Raises ValueError for a
        setting that the decoder does not have, KeyError for a missing one.
      to_hf: The inverse, for what was read with `from_hf`.
      prefix: Of the decoder's names; a checkpoint of the bare decoder lacks it.
      conv1d: Kernels are stored [in, out], not as PyTorch's Linear stores them.
      fused: How the parts of one tensor lie: 'blocks' one after the other, 'heads'
        by turns, head by head.
    """

    model_type: str
    architecture: str
    modules: Mapping[str, str]
    from_hf: Callable[[Mapping[str, Any]], dict[str, Any]]
    to_hf: Callable[[config_lib.TransformerConfig], dict[str, Any]]
    prefix: str = 'model.'
    conv1d: bool = False
    fused: str = 'blocks'

    @property
    def score_architecture(self) -> str:
        """What safe-rlhf calls its score model."""
        return (
            self.architecture.replace('ForCausalLM', '').removesuffix('LMHeadModel')
            + 'ForScore'
        )

    def groups(self, num_heads: int) -> int:
        """How often the parts of one tensor take turns; see `weights.Entry`."""
        return num_heads if self.fused == 'heads' else 1


def activation(name: str) -> str:
    """Our name of an activation in config.json.

    Raises:
      ValueError: It is not known.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f'activation {name!r} is not supported; known: {", ".join(ACTIVATIONS)}.'
        )
    return ACTIVATIONS[name]


def activation_to_hf(
    config: config_lib.TransformerConfig, *, tanh: str = 'gelu_pytorch_tanh'
) -> str:
    """A name of the activation that `transformers` knows; `tanh` for gelu_tanh."""
    return tanh if config.activation == 'gelu_tanh' else config.activation


def renamed(hf: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """config.json with a family's own field names where others are used for them."""
    own = {ours: hf[other] for ours, other in names.items() if other in hf}
    return own | dict(hf)


def refuse(hf: Mapping[str, Any], **expected: Any) -> None:
    """Raises ValueError for a field that has another value than the expected one."""
    for name, value in expected.items():
        if hf.get(name, value) != value:
            raise ValueError(
                f'{name}={hf[name]!r} is not supported; only {value!r} is.'
            )


def rope(
    hf: Mapping[str, Any],
    head_dim: int,
    *,
    theta: str = 'rope_theta',
    partial: str = 'partial_rotary_factor',
    default_partial: float = 1.0,
) -> dict[str, Any]:
    """Fields of rotary positions from config.json, older or newer.

    Args:
      hf: config.json; `rope_parameters` holds all of it since transformers 5.
      head_dim: A.
      theta: Older name of the frequencies' base.
      partial: Older name of the rotated share of a head.
      default_partial: Where none is named.
    """
    found = dict(hf.get('rope_scaling') or {}) | dict(hf.get('rope_parameters') or {})
    share = found.get('partial_rotary_factor', hf.get(partial, default_partial))
    rotary_dim = int(head_dim * share)
    return {
        'rope_theta': float(found.get('rope_theta') or hf.get(theta) or 10_000.0),
        'rope_scaling': _scaling(found, hf),
        'rotary_dim': None if rotary_dim == head_dim else rotary_dim,
    }


def _scaling(
    found: Mapping[str, Any], hf: Mapping[str, Any]
) -> config_lib.RopeScaling | None:
    kind = found.get('rope_type', found.get('type', 'default'))
    if kind == 'default':
        return None
    if kind not in config_lib.ROPE_SCALINGS or not found.get('truncate', True):
        raise ValueError(
            f'RoPE scaling {dict(found)} is not supported; known: default, '
            f'{", ".join(config_lib.ROPE_SCALINGS)}.'
        )
    if found.get('factor') is None:
        raise ValueError(f'RoPE scaling {dict(found)} has no factor.')
    factor = float(found['factor'])
    attention_factor = found.get('attention_factor')
    over, under = found.get('mscale'), found.get('mscale_all_dim')
    if attention_factor is None and over and under:
        growth = 0.1 * math.log(max(factor, 1))
        attention_factor = (growth * over + 1) / (growth * under + 1)
    names = ('low_freq_factor', 'high_freq_factor', 'beta_fast', 'beta_slow')
    more = {name: found[name] for name in names if found.get(name) is not None}
    original = found.get('original_max_position_embeddings')
    return config_lib.RopeScaling(
        kind=kind,
        factor=factor,
        original_positions=original or hf.get('max_position_embeddings') or 0,
        attention_factor=attention_factor,
        **more,
    )


def rope_to_hf(config: config_lib.TransformerConfig) -> dict[str, Any]:
    """rope_theta and rope_scaling of config.json, as every release reads them."""
    fields: dict[str, Any] = {'rope_theta': config.rope_theta}
    scaling = config.rope_scaling
    if scaling is None:
        return fields
    found: dict[str, Any] = {'rope_type': scaling.kind, 'factor': scaling.factor}
    # Older releases take a stated value for yarn's factor as well, so only where it
    # says more than max_position_embeddings does.
    if scaling.kind == 'llama3' or (
        scaling.kind == 'yarn' and scaling.original_positions != config.max_positions
    ):
        found['original_max_position_embeddings'] = scaling.original_positions
    if scaling.kind == 'llama3':
        found['low_freq_factor'] = scaling.low_freq_factor
        found['high_freq_factor'] = scaling.high_freq_factor
    if scaling.kind == 'yarn':
        found['beta_fast'], found['beta_slow'] = scaling.beta_fast, scaling.beta_slow
        if scaling.attention_factor is not None:
            found['attention_factor'] = scaling.attention_factor
    return fields | {'rope_scaling': found}


def layer_types(hf: Mapping[str, Any]) -> tuple[bool, ...]:
    """Whether each layer is windowed, from `layer_types`.

    Raises:
      ValueError: A layer of another kind.
    """
    kinds = {'sliding_attention': True, 'full_attention': False}
    found = hf.get('layer_types') or ()
    unknown = sorted(set(found) - kinds.keys())
    if unknown:
        raise ValueError(f'layer_types has {unknown}; known: {", ".join(kinds)}.')
    return tuple(kinds[kind] for kind in found)


def layer_types_to_hf(config: config_lib.TransformerConfig) -> list[str]:
    """`layer_types` of config.json."""
    names = ('full_attention', 'sliding_attention')
    return [names[windowed] for windowed in config.layer_windows()]
