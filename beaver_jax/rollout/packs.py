"""Rows of samples packed into sequences, on the host, so that pads are not computed.

A response is often a quarter of the longest one, and so is a prompt. Models read packs
instead of rows; what they say is picked from there by row again (`scoring`).
Axes: N rows, M minibatches of n rows, P prompt, G response, T = P + G, R packs.
"""

import numpy as np

from beaver_jax import types
from beaver_jax.data import packing


def pack(
    samples: types.Samples,
    orders: np.ndarray,
    *,
    devices: int,
    parts: int,
    sizes: int,
) -> types.Packs:
    """Packs the rows of minibatches.

    A pack holds rows of one device and one part alone: the rows that `split_rows` gives
    a part, spread over devices in order. So no token crosses devices.

    Args:
      samples: N rows, of which the masks are read; as NumPy.
      orders: [M, n], the rows of each minibatch.
      devices: Over which a minibatch is spread.
      parts: That a minibatch is then split into.
      sizes: The number of packs is a multiple of one in `sizes` of the rows, so that
        programs are compiled for this many shapes.

    Returns:
      Packs with a leading axis M, R the same for all; as NumPy.
    """
    minibatches = len(orders)
    # [M, devices, parts, rows of a group]; see `sharding.split_rows`.
    by_part = orders.reshape(minibatches, devices, -1, parts).swapaxes(2, 3)
    groups = by_part.reshape(-1, by_part.shape[-1])
    lengths = np.sum(samples.mask, axis=1)
    bins = [_bins(lengths[group], samples.mask.shape[1]) for group in groups]
    needed = max(int(found.max()) + 1 for found in bins)
    most = next(n for n in counts(groups.shape[1], sizes) if n >= needed)
    made = [_lay(samples, *pair, most) for pair in zip(groups, bins, strict=True)]

    def merge(leaves):
        x = np.stack(leaves).reshape(minibatches, devices, parts, *leaves[0].shape)
        return x.swapaxes(2, 3).reshape(minibatches, -1, x.shape[-1])

    return types.Packs(*(merge(leaves) for leaves in zip(*made, strict=True)))


def counts(rows: int, sizes: int) -> range:
    """The numbers of packs that a group of rows may have, at most `sizes` of them."""
    step = -(-rows // sizes)
    return range(step, rows + step, step)


def _bins(lengths: np.ndarray, size: int) -> np.ndarray:
    """The pack of each row."""
    found = np.empty(len(lengths), np.int64)
    longest_first = np.argsort(-lengths, kind='stable')
    found[longest_first] = packing.best_fit(np.bincount(lengths, minlength=size + 1))
    return found


def _lay(samples, group, bins, packs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source, segments, places) of the rows of one group."""
    width, longest = samples.mask.shape[1], samples.response_mask.shape[1]
    source = np.full((packs, width), -1, np.int32)
    segments = np.zeros((packs, width), np.int32)
    places = np.zeros((len(group), longest + 1), np.int32)
    filled, held = np.zeros(packs, np.int64), np.zeros(packs, np.int32)
    for i, (row, pack) in enumerate(zip(group, bins, strict=True)):
        columns = np.flatnonzero(samples.mask[row])
        begin, end = filled[pack], filled[pack] + len(columns)
        held[pack] += 1
        source[pack, begin:end] = i * width + columns
        segments[pack, begin:end] = held[pack]
        response = int(samples.response_mask[row].sum())
        last = pack * width + end - 1
        # Beyond the row's end its last place again: what is said there is masked.
        places[i] = last - response + np.minimum(np.arange(longest + 1), response)
        filled[pack] = end
    return source, segments, places
