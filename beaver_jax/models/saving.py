"""Model directories: config.json and safetensors files, written."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from beaver_jax.models import weights

# Of new files; there is no other way to read the mask, which threads share.
MODE = 0o666 & ~(_mask := os.umask(0o022))
os.umask(_mask)
SHARD_BYTES = 4 << 30  # of one file, at most


def save(
    directory: weights.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors files, in place of those that were there.

    config.json is removed first and written last: a directory that was left half
    written has none, and is not taken for a model.

    Args:
      directory: Made if it does not exist.
      config: Fields of config.json.
      tensors: By Hugging Face name.
      shard_bytes: Size above which the weights are spread over several files.

    Raises:
      OSError: A file cannot be written.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in (
        'config.json',
        weights.INDEX,
        weights.WEIGHTS,
        'model-*-of-*.safetensors',
    ):
        for stale in directory.glob(pattern):
            stale.unlink()
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        save_file(directory / weights.WEIGHTS, shards[0])
    else:
        weight_map: dict[str, str] = {}
        for i, shard in enumerate(shards, start=1):
            file = f'model-{i:05d}-of-{len(shards):05d}.safetensors'
            save_file(directory / file, shard)
            weight_map |= dict.fromkeys(shard, file)
        size = sum(tensor.nbytes for tensor in tensors.values())
        save_json(
            directory / weights.INDEX,
            {'metadata': {'total_size': size}, 'weight_map': weight_map},
        )
    save_json(directory / 'config.json', config)


def _shards(tensors, shard_bytes) -> list[dict[str, np.ndarray]]:
    shards: list[dict[str, np.ndarray]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += tensor.nbytes
    return shards


def save_file(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file.

    Raises:
      OSError: It cannot be written.
    """
    try:
        # The metadata is what transformers looks for.
        safetensors_numpy.save_file(tensors, path, metadata={'format': 'pt'})
        # It makes files that only their owner reads; ours are as others are.
        path.chmod(MODE)
    except safetensors.SafetensorError as error:
        raise OSError(
            f'{path}: cannot be written ({error}); make room, or name another place.'
        ) from error


def save_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')
