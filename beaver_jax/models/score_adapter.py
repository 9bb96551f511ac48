"""Score models as adapters over the decoder of another directory.

A directory holds two layouts. `adapter_config.json` and `adapter_model.safetensors`
are `peft`'s for a sequence classifier: the adapters, and the head's kernel as `score`.
What that layout has no place for stands in ours, `score_config.json` and
`score_head.safetensors`: the head with its bias, the normalizer, the type of the
score, the adapters' settings, and the base with its fingerprint.
"""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from beaver_jax.models import config as config_lib
from beaver_jax.models import lora
from beaver_jax.models import peft
from beaver_jax.models import saving
from beaver_jax.models import score
from beaver_jax.models import weights

CONFIG, HEAD = 'score_config.json', 'score_head.safetensors'


class Described(NamedTuple):
    """What score_config.json says."""

    base: str  # directory that the adapters stand on
    fingerprint: str  # of that directory, when they were trained
    lora: lora.LoraConfig
    score: dict[str, Any]  # fields of ScoreConfig but the backbone


def save(
    directory: weights.Path,
    config: config_lib.ScoreConfig,
    settings: lora.LoraConfig,
    params: weights.Params,
    normalizer: score.Normalizer,
    *,
    base: str,
    fingerprint: str,
) -> None:
    """Writes a score model's adapters, head and normalizer.

    Args:
      directory: Made if it does not exist.
      config: The score model.
      settings: Of the adapters.
      params: Adapters and `score_head`, on the host.
      normalizer: Statistics of the scores, on the host.
      base: Directory that they stand on.
      fingerprint: Of that directory.

    Raises:
      OSError: A file cannot be written.
    """
    tensors = peft.tensors_of(config.backbone, params['backbone'])
    head = {name: np.asarray(leaf) for name, leaf in params['score_head'].items()}
    directory = pathlib.Path(directory)
    peft.save(
        directory,
        config.backbone,
        settings,
        tensors,
        base=base,
        head=head['kernel'],
    )
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name != 'backbone'
    }
    said = Described(base, fingerprint, settings, fields)._asdict()
    statistics = dataclasses.asdict(normalizer)
    saving.save_file(
        directory / HEAD,
        {f'score_head.{name}': np.ascontiguousarray(x) for name, x in head.items()}
        | {f'normalizer.{name}': np.asarray(x) for name, x in statistics.items()},
    )
    saving.save_json(directory / CONFIG, said | {'lora': dataclasses.asdict(settings)})


def describe(directory: weights.Path) -> Described:
    """Reads what a directory of adapters says of itself.

    Raises:
      CheckpointError: score_config.json cannot be read.
    """
    path = pathlib.Path(directory) / CONFIG
    try:
        said = json.loads(path.read_text())
        return Described(**said | {'lora': lora.LoraConfig(**said['lora'])})
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise weights.CheckpointError(
            f'{path}: cannot be read ({error}); train its stage anew.'
        ) from error


def load(
    directory: weights.Path, backbone: config_lib.TransformerConfig
) -> tuple[config_lib.ScoreConfig, weights.Params, score.Normalizer]:
    """Reads a score model's adapters, head and normalizer, on the host.

    Args:
      directory: Of `save`.
      backbone: The decoder that they stand on.

    Raises:
      CheckpointError: A file that cannot be read.
    """
    directory = pathlib.Path(directory)
    said = describe(directory)
    config = config_lib.ScoreConfig(backbone=backbone, **said.score)
    try:
        tensors = safetensors_numpy.load_file(directory / peft.WEIGHTS)
        ours = safetensors_numpy.load_file(directory / HEAD)
    except (OSError, safetensors.SafetensorError) as error:
        raise weights.CheckpointError(
            f'{directory}: cannot be read ({error}); train its stage anew.'
        ) from error

    def part(prefix):
        names = [name for name in ours if name.startswith(prefix)]
        return {name.removeprefix(prefix): ours[name] for name in names}

    params = {
        'backbone': peft.adapters_of(backbone, said.lora, tensors),
        'score_head': part('score_head.'),
    }
    statistics = {name: jnp.asarray(x) for name, x in part('normalizer.').items()}
    return config, params, score.Normalizer(**statistics)
