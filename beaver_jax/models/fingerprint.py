"""Whether a model directory still holds the weights that it once held.

All of a 7B model takes a minute to read from a slow disk, at every start. A sample of
every tensor takes well under a second, and shows whatever training changes: that is
all of a tensor, or most of it where 16 bits round small changes away.
"""

import hashlib
import json
import pathlib
from typing import Any

from beaver_jax.models import weights

# Of each tensor the first block, the last, and others evenly between them.
BLOCK, BLOCKS = 4096, 4
# A header of more bytes than this is no header; that of a 7B model has 40,000.
LONGEST_HEADER = 100_000_000


def of(directory: pathlib.Path) -> str:
    """A fingerprint of the weights in a model directory.

    It covers name, type, shape and up to 16 KiB of the values of every tensor; neither
    config.json nor how the tensors are spread over files. A change of a few values
    within a large tensor may escape it.

    Args:
      directory: With safetensors files.

    Returns:
      64 hexadecimal digits.

    Raises:
      CheckpointError: No weights, or files that are missing or broken.
    """
    samples: dict[str, str] = {}
    for path in weights.weight_files(pathlib.Path(directory)):
        try:
            samples |= _samples(path)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise weights.CheckpointError(
                f'{path}: cannot be read ({error}); copy it anew.'
            ) from error
    found = hashlib.sha256()
    for name, sample in sorted(samples.items()):
        found.update(f'{name} {sample}\n'.encode())
    return found.hexdigest()


def _samples(path: pathlib.Path) -> dict[str, str]:
    """What each tensor of a safetensors file is, and a hash of its sampled values."""
    samples = {}
    with path.open('rb') as file:
        size = int.from_bytes(file.read(8), 'little')
        if size > LONGEST_HEADER:
            raise ValueError(f'a header of {size} bytes')
        header: dict[str, Any] = json.loads(file.read(size))
        header.pop('__metadata__', None)
        for name, tensor in header.items():
            begin, end = tensor['data_offsets']
            values = hashlib.sha256()
            for offset, length in _blocks(end - begin):
                file.seek(8 + size + begin + offset)
                values.update(block := file.read(length))
                if len(block) < length:
                    raise ValueError(f'{name} is cut short')
            samples[name] = f'{tensor["dtype"]} {tensor["shape"]} {values.hexdigest()}'
    return samples


def _blocks(size: int) -> list[tuple[int, int]]:
    """(offset, length) of what is read of a tensor of so many bytes."""
    if size <= BLOCK * BLOCKS:
        return [(0, size)]
    last = size - BLOCK
    return [(last * i // (BLOCKS - 1), BLOCK) for i in range(BLOCKS)]
