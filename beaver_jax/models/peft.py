"""Adapters as directories that the library `peft` reads.

Where a family keeps several of our maps in one tensor, such as q, k and v, theirs is
one adapter of the rank of all together: with n adapted maps A is [A_1 … A_n], and B has
B_i in the rows of rank i and the columns of map i, and zeros elsewhere.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
import re

from flax import traverse_util
import numpy as np

from beaver_jax.models import config as config_lib
from beaver_jax.models import families
from beaver_jax.models import lora
from beaver_jax.models import saving
from beaver_jax.models import weights as weights_lib

A, B = 'lora_A.weight', 'lora_B.weight'
WEIGHTS = 'adapter_model.safetensors'


def tensors_of(
    config: config_lib.TransformerConfig, adapters: weights_lib.Params
) -> dict[str, np.ndarray]:
    """A decoder's adapters as {peft's name: array in PyTorch's orientation}.

    Args:
      config: The decoder.
      adapters: On the host or fully addressable.
    """
    flat = traverse_util.flatten_dict(adapters, sep='/')
    modules = families.FAMILIES[config.family].modules
    tensors = {}
    for theirs in dict.fromkeys(modules.values()):
        parts = [ours for ours, name in modules.items() if name == theirs]
        adapted = [ours for ours in parts if f'{ours}/{lora.A}' in flat]
        if not adapted:
            continue
        down = [np.asarray(flat[f'{ours}/{lora.A}']) for ours in adapted]
        up = [
            _among(config, parts, ours, np.asarray(flat[f'{ours}/{lora.B}']))
            for ours in adapted
        ]
        if theirs == modules.get('lm_head'):
            up = [up[0][:, : config.vocab_size]]  # without padding
        whole = {A: np.concatenate(down, axis=-1), B: np.concatenate(up, axis=-2)}
        for kind, leaf in whole.items():
            for i, layer in enumerate(leaf if '{}' in theirs else leaf[None]):
                tensors[_name(theirs, i, kind)] = np.ascontiguousarray(layer.T)
    return tensors


def _among(
    config: config_lib.TransformerConfig,
    parts: Sequence[str],
    module: str,
    up: np.ndarray,
) -> np.ndarray:
    """B of a module, [..., r, out], to the outputs of all parts of its tensor."""
    if len(parts) == 1:
        return up
    nothing = np.zeros_like(up)
    return _entry(config, parts, module).merge(
        [up if part == module else nothing for part in parts]
    )


def adapters_of(
    config: config_lib.TransformerConfig,
    settings: lora.LoraConfig,
    tensors: Mapping[str, np.ndarray],
) -> weights_lib.Params:
    """The inverse of `tensors_of`; other tensors are left out.

    Args:
      config: The decoder.
      settings: Of the adapters.
      tensors: By peft's names.
    """
    adapters = {}
    modules = families.FAMILIES[config.family].modules
    for theirs in dict.fromkeys(modules.values()):
        layers = range(config.num_layers) if '{}' in theirs else range(1)
        if _name(theirs, 0, A) not in tensors:
            continue
        down, up = (
            np.stack([tensors[_name(theirs, i, kind)].T for i in layers])
            for kind in (A, B)
        )
        parts = [ours for ours, name in modules.items() if name == theirs]
        adapted = [ours for ours in parts if re.fullmatch(settings.targets, ours)]
        for i, ours in enumerate(adapted):
            ranks = slice(i * settings.rank, (i + 1) * settings.rank)
            a = down[..., ranks]
            b = _entry(config, parts, ours).split(up[..., ranks, :])
            adapters[f'{ours}/{lora.A}'] = a if '{}' in theirs else a[0]
            adapters[f'{ours}/{lora.B}'] = b if '{}' in theirs else b[0]
    return traverse_util.unflatten_dict(adapters, sep='/')


def _name(theirs: str, layer: int, kind: str) -> str:
    return f'base_model.model.{theirs.format(layer)}.{kind}'


def _entry(
    config: config_lib.TransformerConfig, parts: Sequence[str], module: str
) -> weights_lib.Entry:
    """Where a module stands in the tensor that holds all parts."""
    groups = families.FAMILIES[config.family].groups(config.num_heads)
    return weights_lib.Entry(
        module, (), True, True, parts.index(module), len(parts), groups
    )


def save(
    directory: weights_lib.Path,
    config: config_lib.TransformerConfig,
    settings: lora.LoraConfig,
    tensors: dict[str, np.ndarray],
    *,
    base: str,
    head: np.ndarray | None = None,
) -> None:
    """Writes adapters as a directory that `peft` loads.

    Args:
      directory: Made if it does not exist.
      config: The decoder.
      settings: Of the adapters.
      tensors: Of `tensors_of`.
      base: Name or path of the model that they stand on.
      head: Kernel [D, outputs] of a score model's head, for a classifier without bias;
        None for a causal LM.

    Raises:
      OSError: A file cannot be written.
    """
    family = families.FAMILIES[config.family]
    ranks = {
        theirs.rpartition('{}.')[2]: tensors[name].shape[0]
        for theirs in family.modules.values()
        if (name := _name(theirs, 0, A)) in tensors
    }
    fused = {name: rank for name, rank in ranks.items() if rank != settings.rank}
    described = {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM' if head is None else 'SEQ_CLS',
        'modules_to_save': None if head is None else ['score'],
        'base_model_name_or_path': base,
        'r': settings.rank,
        'lora_alpha': settings.alpha,
        'rank_pattern': fused,
        # So that all count as much as before: s is alpha / r, or alpha / √r.
        'alpha_pattern': {
            name: settings.scale * (math.sqrt(rank) if settings.rslora else rank)
            for name, rank in fused.items()
        },
        'lora_dropout': 0.0,
        'use_rslora': settings.rslora,
        'fan_in_fan_out': family.conv1d,
        'bias': 'none',
        'inference_mode': True,
        'target_modules': sorted(ranks),
    }
    if head is not None:
        kernel = np.ascontiguousarray(head.T)
        tensors = tensors | {'base_model.model.score.weight': kernel}
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    saving.save_file(directory / WEIGHTS, tensors)
    saving.save_json(directory / 'adapter_config.json', described)
