"""Sequences that live in a temporary file, so that memory does not grow with the data.

A file has no name: it is gone with the last process that has it open, however that
ends. It lies in the directory for temporary files, `$TMPDIR`.
"""

import array
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import copyreg
import gc
import io
import itertools
import operator
import os
import pickle
import tempfile
from typing import Any, Generic, TypeVar, overload

import numpy as np

Item = TypeVar('Item')
Given = TypeVar('Given')
_TOGETHER = 32  # items that are made, and then written, one after the other
_THRESHOLD = 10_000  # objects more than before, at which Python looks for garbage


class Stored(Sequence[Item], Generic[Item]):
    """Items of a temporary file, in some order. Any thread may read it."""

    def __init__(
        self,
        file: Any,
        bounds: Sequence[int],
        order: np.ndarray,
        sizes: np.ndarray,
        loads: Callable[[bytes], Item],
    ):
        """See `collect`.

        Args:
            file: with the items one after the other.
            bounds: N + 1, where each begins, and the last one's end.
            order: which items these are, by index.
            sizes: [N, any] int32, what is known of each without reading it.
            loads: makes an item of its bytes.
        """
        self._file, self._bounds, self._order = file, bounds, order
        self._sizes, self._loads = sizes, loads

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> 'Stored[Item]': ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._read(self._order[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self._read, self._order)

    def _read(self, place: np.integer) -> Item:
        at = int(place)  # NumPy's numbers are slow as indices
        start = self._bounds[at]
        size = self._bounds[at + 1] - start
        return self._loads(os.pread(self._file.fileno(), size, start))

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has equal items in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: np.ndarray | Sequence[int]) -> 'Stored[Item]':
        """The items of these indices, in this order; some may come several times."""
        places = self._order[np.asarray(indices, np.int64)]
        return Stored(self._file, self._bounds, places, self._sizes, self._loads)

    @property
    def sizes(self) -> np.ndarray:
        """[N, any] int32, what `collect` was told to keep of each item in memory."""
        return self._sizes[self._order]


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


@overload
def collect(
    items: Iterable[Item], size: Callable[[Item], Sequence[int]] = ...
) -> Stored[Item]: ...
@overload
def collect(
    items: Iterable[Given],
    size: Callable[[Given], Sequence[int]] = ...,
    *,
    dumps: Callable[[Given], bytes],
    loads: Callable[[bytes], Item],
) -> Stored[Item]: ...


def collect(items, size=lambda item: (), *, dumps=_dumps, loads=pickle.loads):
    """Writes items one after the other to where any of them can be read again.

    Args:
        items: of any kind that `dumps` takes.
        size: numbers of an item, as many for each, that are kept as `sizes`.
        dumps: makes bytes of an item: without one, its pickle.
        loads: makes of these bytes what is read: without one, the item.

    Raises:
        OSError: there is no room for them.
    """
    ends, sizes = array.array('q', [0]), array.array('i')
    # It stays open for what is returned.
    file = tempfile.TemporaryFile()  # noqa: SIM115
    left = iter(items)
    with _few_collections():
        while some := list(itertools.islice(left, _TOGETHER)):
            data = [dumps(item) for item in some]
            try:
                file.write(b''.join(data))
                file.flush()
            except OSError as error:
                raise _explained(error) from error
            for item, written in zip(some, data, strict=True):
                ends.append(ends[-1] + len(written))
                sizes.extend(size(item))
    count = len(ends) - 1
    width = len(sizes) // count if count else 0
    kept = np.array(sizes, np.int32).reshape(count, width)
    return Stored(file, ends, np.arange(count), kept, loads)


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Has Python look for garbage in cycles, of which rows make none, less often.

    In a process with JAX a look at all objects takes 0.1 to 0.3 s, and some ten
    thousand rows brought one about.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _THRESHOLD:
        yield
        return
    gc.set_threshold(_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _explained(error: OSError) -> OSError:
    return OSError(
        error.errno,
        f'{error.strerror}: rows wait in a temporary file; set TMPDIR to a directory '
        'with more room',
        tempfile.gettempdir(),
    )
