"""Adapters as directories that the library `peft` reads."""

import pathlib

from flax import traverse_util
import numpy as np

from beaver_jax.models import config as config_lib
from beaver_jax.models import families
from beaver_jax.models import lora
from beaver_jax.models import weights as weights_lib

NAMES = {lora.A: 'lora_A', lora.B: 'lora_B'}


def tensors_of(
    config: config_lib.TransformerConfig, adapters: weights_lib.Params
) -> dict[str, np.ndarray]:
    """A causal LM's adapters as {peft's name: array in PyTorch's orientation}.

    Args:
      config: The decoder.
      adapters: On the host or fully addressable.

    Raises:
      CheckpointError: The family stores an adapted map fused with others.
    """
    theirs_of = families.FAMILIES[config.family].modules
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(adapters, sep='/').items():
        module, _, kind = path.rpartition('/')
        theirs = theirs_of[module]
        if list(theirs_of.values()).count(theirs) > 1:
            raise weights_lib.CheckpointError(
                f'{theirs} of {config.family} holds {module} and others in one tensor, '
                'for which peft has no adapter; use the merged model.'
            )
        layers = np.asarray(leaf) if '{}' in theirs else np.asarray(leaf)[None]
        for i, layer in enumerate(layers):
            name = f'base_model.model.{theirs.format(i)}.{NAMES[kind]}.weight'
            tensors[name] = np.ascontiguousarray(layer.T)
    return tensors


def save(
    directory: weights_lib.Path,
    config: config_lib.TransformerConfig,
    settings: lora.LoraConfig,
    tensors: dict[str, np.ndarray],
    *,
    base: str,
) -> None:
    """Writes a causal LM's adapters as a directory that `peft` loads.

    Args:
      directory: Made if it does not exist.
      config: The decoder.
      settings: Of the adapters.
      tensors: Of `tensors_of`.
      base: Name or path of the model that they stand on.

    Raises:
      OSError: A file cannot be written.
    """
    family = families.FAMILIES[config.family]
    adapted = [
        theirs
        for theirs in family.modules.values()
        if f'base_model.model.{theirs.format(0)}.lora_A.weight' in tensors
    ]
    described = {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        'base_model_name_or_path': base,
        'r': settings.rank,
        'lora_alpha': settings.alpha,
        'lora_dropout': 0.0,
        'use_rslora': settings.rslora,
        'fan_in_fan_out': family.conv1d,
        'bias': 'none',
        'inference_mode': True,
        'target_modules': sorted(name.rpartition('{}.')[2] for name in adapted),
    }
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights_lib.save_file(directory / 'adapter_model.safetensors', tensors)
    weights_lib.save_json(directory / 'adapter_config.json', described)
