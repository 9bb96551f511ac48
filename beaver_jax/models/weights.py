"""Parameters from safetensors files and back to tensors, by Hugging Face's names.

Weights are read slice by slice, straight into target shardings and types; a host holds
one slice at a time beside what its devices hold. Nothing is unpickled.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.models import tensors as tensors_lib

WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'
# Buffers that older checkpoints carry and no parameter needs.
IGNORED_SUFFIXES = (
    'rotary_emb.inv_freq',
    'attn.bias',
    'attn.masked_bias',
    'attention.bias',
    'attention.masked_bias',
)
CheckpointError = tensors_lib.CheckpointError
Params = dict[str, Any]
Place = Callable[[Any], Any]  # abstract parameters to a tree of shardings
Path = str | pathlib.Path


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and where it stands in a checkpoint.

    Attributes:
      path: Of the parameter.
      names: Of the tensors, one per layer for stacked parameters.
      stacked: The first axis is the layers'.
      transposed: Tensors are stored [out, in].
      part: Which part of a tensor's outputs this is, of `parts`.
      parts: How many parameters share the tensor.
      vocab: (axis, tokens in the file, tokens in the model) where an axis of the
        parameter counts tokens. Tokens that the file lacks get the mean of those it
        has; what the parameter has beyond them is padding, 0 and never stored.
      groups: Outputs lie as [groups, parts, width]: 1 one part after the other, the
        number of heads where every head's parts stand together.
    """

    path: str
    names: tuple[str, ...]
    stacked: bool
    transposed: bool
    part: int = 0
    parts: int = 1
    groups: int = 1
    vocab: tuple[int, int, int] | None = None

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of each tensor for a parameter of some shape."""
        shape = shape[1:] if self.stacked else shape
        if self.vocab is not None:
            axis, stored, _ = self.vocab
            shape = (*shape[:axis], stored, *shape[axis + 1 :])
        shape = (*shape[:-1], shape[-1] * self.parts)
        return shape[::-1] if self.transposed else shape

    def split(self, tensor: np.ndarray) -> np.ndarray:
        """This parameter of a whole tensor, [..., out]."""
        outer, width = tensor.shape[:-1], tensor.shape[-1] // self.parts
        split = tensor.reshape(*outer, self.groups, self.parts, width // self.groups)
        return split[..., self.part, :].reshape(*outer, width)

    def merge(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `split`, of all parts in order."""
        outer, width = parts[0].shape[:-1], parts[0].shape[-1]
        split = [part.reshape(*outer, self.groups, 1, -1) for part in parts]
        return np.concatenate(split, axis=-2).reshape(*outer, width * self.parts)

    def without_padding(self, leaf: np.ndarray) -> np.ndarray:
        """The parameter as it is stored."""
        if self.vocab is None:
            return leaf
        axis, _, tokens = self.vocab
        return leaf[(slice(None),) * axis + (slice(tokens),)]


class Weights:
    """The tensors of a directory's safetensors files, read by slices."""

    def __init__(self, directory: Path):
        """Reads what the files hold, not the tensors.

        Raises:
          CheckpointError: No weights, weights only in pickle, missing or broken files.
        """
        self._tensors: dict[str, tensors_lib.Tensor] = {}
        for path in weight_files(pathlib.Path(directory)):
            self._tensors |= tensors_lib.of(path)

    def add_prefix(self, prefix: str, wanted: Collection[str]) -> None:
        """Gives tensors the prefix with which they are wanted, where all lack it."""
        if prefix and not any(name.startswith(prefix) for name in self._tensors):
            self._tensors = {
                prefix + name if prefix + name in wanted else name: tensor
                for name, tensor in self._tensors.items()
            }

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, as stored."""
        return self._tensors[name].shape

    def read(
        self, name: str, index: tuple[slice, ...] = (), dtype: str | None = None
    ) -> np.ndarray:
        """A slice of a tensor; see `tensors.Tensor.read`."""
        return self._tensors[name].read(index, dtype)

    def tensors(self) -> dict[str, tensors_lib.Tensor]:
        """All tensors, by name."""
        return dict(self._tensors)


def weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of a model directory.

    Raises:
      CheckpointError: None, only weights in pickle, a missing file, a broken index.
    """
    paths = [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        try:
            files = json.loads((directory / INDEX).read_text())['weight_map'].values()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f'{directory / INDEX}: no JSON with a weight_map; copy it anew.'
            ) from error
        paths = sorted({directory / name for name in files})
    missing = [path.name for path in paths if not path.is_file()]
    if missing and any(directory.glob('*.bin')):
        raise CheckpointError(
            f'{directory}: weights in pickle files (.bin), which are never loaded. '
            'Where you trust them, load them with transformers on PyTorch and write '
            'them with model.save_pretrained, which makes safetensors.'
        )
    if missing:
        raise CheckpointError(f'{directory}: no {", ".join(missing)}.')
    return paths


def load(
    directory: Path,
    entries: Sequence[Entry],
    abstract: Params,
    *,
    place: Place | None,
    dtype: str,
    wide: tuple[str, ...] = (),
    ignored: Collection[str] = (),
    prefix: str = '',
) -> tuple[Params, Weights]:
    """Reads parameters into their shardings, after comparing names and shapes.

    Args:
      directory: With safetensors files.
      entries: Where each parameter stands.
      abstract: Shapes of the parameters.
      place: Gives shardings for `abstract`; None keeps them on one device.
      dtype: Type of the parameters.
      wide: Beginnings of paths whose parameters are float32 in any case.
      ignored: Tensors that may be there and are not read.
      prefix: What all names may lack, as in a checkpoint of a bare decoder.

    Returns:
      (parameters, the files, for whatever else is read from them).

    Raises:
      CheckpointError: See `Weights`; or tensors that are missing, left over, or of
        another shape.
    """
    weights = Weights(directory)
    weights.add_prefix(prefix, {name for entry in entries for name in entry.names})
    shapes = {
        path: leaf.shape
        for path, leaf in traverse_util.flatten_dict(abstract, sep='/').items()
    }
    _compare(directory, weights, entries, shapes, ignored)
    shardings = dict.fromkeys(shapes)
    if place is not None:
        shardings = traverse_util.flatten_dict(place(abstract), sep='/')
    leaves = {
        entry.path: _read(
            weights,
            entry,
            shapes[entry.path],
            shardings[entry.path],
            'float32' if entry.path.startswith(wide) else dtype,
        )
        for entry in entries
    }
    return traverse_util.unflatten_dict(leaves, sep='/'), weights


def _compare(directory, weights, entries, shapes, ignored) -> None:
    """Compares both sides: what is missing, left over, or of another shape."""
    names = {name for entry in entries for name in entry.names}
    extra = weights.names() - names - set(ignored)
    misshapen = []
    for entry in entries:
        expected = entry.stored_shape(shapes[entry.path])
        for name in sorted(weights.names() & set(entry.names)):
            if weights.shape(name) != expected:
                misshapen.append(f'{name} is {weights.shape(name)}, not {expected}')
    problems = {
        'missing': sorted(names - weights.names()),
        'left over': sorted(n for n in extra if not n.endswith(IGNORED_SUFFIXES)),
        'wrong shape': misshapen,
    }
    if any(problems.values()):
        raise CheckpointError(
            f'{directory}: weights do not fit the model in config.json; '
            + '; '.join(
                f'{what}: {", ".join(found[:8])}{" …" if found[8:] else ""}'
                for what, found in problems.items()
                if found
            )
        )


def _read(weights, entry, shape, sharding, dtype) -> jax.Array:
    def read_one(name, index):
        if entry.vocab is not None:
            return _read_tokens(weights, entry, name, shape, index).astype(dtype)
        if entry.parts > 1:  # every part's outputs lie all over the tensor's
            index, last = (*index[:-1], slice(None)), index[-1]
        index = index[::-1] if entry.transposed else index
        tensor = weights.read(name, index, dtype)
        tensor = tensor.T if entry.transposed else tensor
        return entry.split(tensor)[..., last] if entry.parts > 1 else tensor

    def read(index):
        if not entry.stacked:
            return read_one(entry.names[0], index)
        names = entry.names[index[0]]
        first = read_one(names[0], index[1:])
        layers = np.empty((len(names), *first.shape), first.dtype)
        layers[0] = first
        for i, name in enumerate(names[1:], start=1):
            layers[i] = read_one(name, index[1:])
        return layers

    if sharding is None:
        return jnp.asarray(read(tuple(slice(None) for _ in shape)))
    return _place(shape, sharding, read)


def _read_tokens(
    weights: Weights,
    entry: Entry,
    name: str,
    shape: tuple[int, ...],
    index: tuple[slice, ...],
) -> np.ndarray:
    """A slice of a parameter with an axis of tokens; see `Entry.vocab`."""
    assert entry.vocab is not None

    def read(index):
        tensor = weights.read(name, index[::-1] if entry.transposed else index)
        return tensor.T if entry.transposed else tensor

    axis, stored, tokens = entry.vocab
    start, stop, _ = index[axis].indices(shape[axis])

    def at(first, last):
        return (*index[:axis], slice(first, last), *index[axis + 1 :])

    if stop <= stored:
        return read(at(start, stop))
    # Of padding alone at least the last token is read, for its shape and type.
    first = min(start, stored - 1)
    held = read(at(first, stored))
    held = held[(slice(None),) * axis + (slice(min(start, stored) - first, None),)]
    new = max(min(stop, tokens) - max(start, stored), 0)
    parts = [held]
    if new:
        mean = read(at(0, stored)).astype(np.float32).mean(axis=axis, keepdims=True)
        parts.append(np.repeat(mean, new, axis=axis).astype(held.dtype))
    padding = list(held.shape)
    padding[axis] = stop - start - held.shape[axis] - new
    parts.append(np.zeros(padding, held.dtype))
    return np.concatenate(parts, axis=axis)


def _place(
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
    read: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
    """A global array; each distinct slice is read once, and one at a time is held."""
    places: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # all of these devices hold a part
        ends = tuple(
            part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
        )
        places.setdefault(ends, []).append(device)
    shards = []
    for ends, devices in places.items():
        host = read(tuple(slice(*pair) for pair in ends))
        copies = [jax.device_put(host, device) for device in devices]
        shards += jax.block_until_ready(copies)
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def named(entries: Iterable[Entry], params: Params) -> dict[str, np.ndarray]:
    """Parameters on the host as {Hugging Face name: array in PyTorch's orientation}."""
    flat = traverse_util.flatten_dict(params, sep='/')
    tensors: dict[str, np.ndarray] = {}
    parts: dict[str, list[np.ndarray]] = {}
    for entry in sorted(entries, key=lambda entry: entry.part):
        leaf = entry.without_padding(np.asarray(flat[entry.path]))
        layers = leaf if entry.stacked else leaf[None]
        for name, layer in zip(entry.names, layers, strict=True):
            found = parts.setdefault(name, [])
            found.append(layer)
            if len(found) < entry.parts:
                continue
            tensor = entry.merge(parts.pop(name)) if entry.parts > 1 else layer
            tensors[name] = np.ascontiguousarray(
                tensor.T if entry.transposed else tensor
            )
    return tensors
