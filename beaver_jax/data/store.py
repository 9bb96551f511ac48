"""Sequences that live in a temporary file, so that memory does not grow with the data.

A file has no name: it is gone with the last process that has it open, however that
ends. It lies in the directory for temporary files, `$TMPDIR`.
"""

import array
from collections.abc import Callable, Iterable, Iterator, Sequence
import copyreg
import io
import operator
import os
import pickle
import tempfile
from typing import Any, Generic, TypeVar, overload

import numpy as np

Item = TypeVar('Item')
_BUFFER = 1 << 20  # bytes that are written at once


class Stored(Sequence[Item], Generic[Item]):
    """Items of a temporary file, in some order. Any thread may read it."""

    def __init__(
        self, file: Any, bounds: np.ndarray, order: np.ndarray, sizes: np.ndarray
    ):
        """See `collect`.

        Args:
            file: with the items one after the other.
            bounds: [N + 1] int64, where each begins, and the last one's end.
            order: which items these are, by index.
            sizes: [N, any] int32, what is known of each without reading it.
        """
        self._file, self._bounds, self._order = file, bounds, order
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> 'Stored[Item]': ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = self._order[index]
        start, end = self._bounds[place : place + 2]
        return pickle.loads(os.pread(self._file.fileno(), int(end - start), int(start)))

    def __iter__(self) -> Iterator[Item]:
        for index in range(len(self)):
            yield self[index]

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has equal items in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: np.ndarray | Sequence[int]) -> 'Stored[Item]':
        """The items of these indices, in this order; some may come several times."""
        places = self._order[np.asarray(indices, np.int64)]
        return Stored(self._file, self._bounds, places, self._sizes)

    @property
    def sizes(self) -> np.ndarray:
        """[N, any] int32, what `collect` was told to keep of each item in memory."""
        return self._sizes[self._order]


def collect(
    items: Iterable[Item], size: Callable[[Item], Sequence[int]] = lambda item: ()
) -> Stored[Item]:
    """Writes items one after the other to where any of them can be read again.

    Args:
        items: of any kind that can be pickled.
        size: numbers of an item, as many for each, that are kept as `sizes`.

    Raises:
        OSError: there is no room for them.
    """
    ends, sizes = array.array('q', [0]), array.array('i')
    # It stays open for what is returned.
    file = tempfile.TemporaryFile(buffering=_BUFFER)  # noqa: SIM115
    for item in items:
        data = _dumps(item)
        try:
            file.write(data)
        except OSError as error:
            raise _explained(error) from error
        ends.append(ends[-1] + len(data))
        sizes.extend(size(item))
    try:
        file.flush()
    except OSError as error:
        raise _explained(error) from error
    count = len(ends) - 1
    width = len(sizes) // count if count else 0
    kept = np.array(sizes, np.int32).reshape(count, width)
    return Stored(file, np.array(ends), np.arange(count), kept)


def _array(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape)


class _Pickler(pickle.Pickler):
    """Writes arrays as their bytes: NumPy's own way takes ten times as long."""

    dispatch_table = copyreg.dispatch_table | {
        np.ndarray: lambda x: (_array, (x.tobytes(), x.dtype.str, x.shape))
    }


def _dumps(item: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(item)
    return buffer.getvalue()


def _explained(error: OSError) -> OSError:
    return OSError(
        error.errno,
        f'{error.strerror}: rows wait in a temporary file; set TMPDIR to a directory '
        'with more room',
        tempfile.gettempdir(),
    )
