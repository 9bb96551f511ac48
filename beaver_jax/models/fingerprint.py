"""Whether a model directory still holds the weights that it once held.

All of a 7B model takes a minute to read from a slow disk, at every start. A sample of
every tensor takes well under a second, and shows whatever training changes: that is
all of a tensor, or most of it where 16 bits round small changes away.
"""

import hashlib
import pathlib

from beaver_jax.models import weights

# Of each tensor the first block, the last, and others evenly between them.
BLOCK, BLOCKS = 4096, 4


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
    found = hashlib.sha256()
    for name, tensor in sorted(weights.Weights(directory).tensors().items()):
        found.update(f'{name} {tensor.kind} {tensor.shape}\n'.encode())
        for block in tensor.sample(_blocks(tensor.nbytes)):
            found.update(block)
    return found.hexdigest()


def _blocks(size: int) -> dict[int, int]:
    """Offsets and lengths of what is read of a tensor of so many bytes."""
    if size <= BLOCK * BLOCKS:
        return {0: size}
    last = size - BLOCK
    return {last * i // (BLOCKS - 1): BLOCK for i in range(BLOCKS)}
