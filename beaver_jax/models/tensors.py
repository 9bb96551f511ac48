"""Tensors of safetensors files, read block by block.

Files are not mapped: a mapping counts as this process's memory wherever it was touched,
and a device's columns of a matrix touch all of it.
"""

from collections.abc import Mapping
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

# The most bytes of a file that are in memory at once, but for one row.
BLOCK = 4 << 20
KINDS = {
    'BOOL': 'bool',
    'U8': 'uint8',
    'I8': 'int8',
    'I16': 'int16',
    'I32': 'int32',
    'I64': 'int64',
    'F16': 'float16',
    'BF16': 'bfloat16',
    'F32': 'float32',
    'F64': 'float64',
}


class CheckpointError(ValueError):
    """A model directory that cannot be read, or does not hold what is asked for."""


class Tensor(NamedTuple):
    """A tensor in a file."""

    file: pathlib.Path
    name: str
    kind: str  # as safetensors calls its type
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    nbytes: int

    def read(
        self, index: tuple[slice, ...] = (), dtype: str | None = None
    ) -> np.ndarray:
        """A slice of the tensor; only a small block of it is held beside the result.

        Args:
          index: Of leading axes, without steps.
          dtype: What the values are rounded to; as stored by default.

        Raises:
          CheckpointError: The file is cut short, or the type is not known.
        """
        if self.kind not in KINDS:
            raise CheckpointError(
                f'{self.file}: {self.name} is of type {self.kind}; known: '
                f'{", ".join(KINDS)}.'
            )
        stored = jnp.dtype(KINDS[self.kind])
        shape = self.shape or (1,)
        ends = [slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=False)]
        rows = ends[0] if ends else slice(0, shape[0])
        inner = (slice(None), *ends[1:])
        wanted = [end.stop - end.start for end in (rows, *ends[1:])]
        found = np.empty(
            (*wanted, *shape[len(wanted) :]), jnp.dtype(dtype) if dtype else stored
        )
        width = math.prod(shape[1:]) * stored.itemsize
        step = max(1, BLOCK // max(1, width))
        with self.file.open('rb', buffering=0) as file:
            for begin in range(rows.start, rows.stop, step):
                end = min(begin + step, rows.stop)
                raw = self._bytes(file, begin * width, (end - begin) * width)
                block = raw.view(stored).reshape(end - begin, *shape[1:])
                found[begin - rows.start : end - rows.start] = block[inner]
        return found.reshape(()) if not self.shape else found

    def sample(self, offsets: Mapping[int, int]) -> list[bytes]:
        """Bytes of the tensor: of each offset, so many.

        Raises:
          CheckpointError: The file is cut short.
        """
        with self.file.open('rb', buffering=0) as file:
            return [self._bytes(file, *pair).tobytes() for pair in offsets.items()]

    def _bytes(self, file: Any, offset: int, length: int) -> np.ndarray:
        buffer = np.empty(length, np.uint8)
        view = buffer.data
        file.seek(self.offset + offset)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(
                    f'{self.file}: {self.name} is cut short; copy it anew.'
                )
            view = view[count:]
        return buffer


def of(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
      CheckpointError: It cannot be read, or is not whole.
    """
    try:
        with safetensors.safe_open(path, framework='np'):
            pass  # it has checked that header and size fit together
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            header = json.loads(file.read(length))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f'{path}: cannot be read ({error}); copy it anew.') from (
            error
        )
    header.pop('__metadata__', None)
    return {
        name: Tensor(
            path,
            name,
            found['dtype'],
            tuple(found['shape']),
            8 + length + found['data_offsets'][0],
            found['data_offsets'][1] - found['data_offsets'][0],
        )
        for name, found in header.items()
    }
