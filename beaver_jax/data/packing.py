"""Sequences packed into rows of one length: which ones share a row, in every epoch.

Bins are filled once, from the lengths alone, by best fit decreasing: from the longest
to the shortest, each goes where the least room is left beside it. A bin is then a set
of places, each for one length. In every epoch the sequences of one length are dealt
anew to the places of that length, and the bins are shuffled. So the number of bins is
the same in every epoch, each epoch has every sequence once, and any bin can be found by
its index alone.
"""

from collections.abc import Sequence
import functools

import numpy as np


class Packing:
    """Sequences in bins, without end: epoch after epoch, each in another order."""

    def __init__(self, lengths: np.ndarray | Sequence[int], size: int, seed: int = 0):
        """Fills the bins.

        Args:
            lengths: of the sequences, from 1 to `size`.
            size: tokens of a bin.
            seed: of all orders.

        Raises:
            ValueError: a sequence is empty or longer than a bin.
        """
        self._lengths = np.asarray(lengths)
        shortest, longest = self._lengths.min(), self._lengths.max()
        if shortest < 1 or longest > size:
            raise ValueError(
                f'lengths from {shortest} to {longest} are not within 1 and '
                f'size={size}.'
            )
        self._seed = seed
        bins = best_fit(np.bincount(self._lengths, minlength=size + 1))
        # Places, which are ordered by length, bin by bin, and where each bin begins.
        self._places = np.argsort(bins, kind='stable')
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(bins))])
        # A batch may span two epochs.
        self._epoch = functools.lru_cache(maxsize=2)(self._new_epoch)

    def __len__(self) -> int:
        """Bins of an epoch."""
        return len(self._starts) - 1

    def sequences(self, index: int) -> np.ndarray:
        """The sequences of a bin, by number; `index` goes on beyond an epoch's end."""
        epoch, place = divmod(index, len(self))
        sequences, order = self._epoch(epoch)
        found = order[place]
        return sequences[self._starts[found] : self._starts[found + 1]]

    def _new_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences bin by bin, and the order of the bins."""
        random = np.random.default_rng([self._seed, epoch])
        mixed = random.permutation(len(self._lengths))
        # From the longest to the shortest, those of one length in any order.
        sorted_ = mixed[np.argsort(-self._lengths[mixed], kind='stable')]
        return sorted_[self._places], random.permutation(len(self))


def best_fit(counts: np.ndarray) -> np.ndarray:
    """Fills bins by best fit decreasing, many sequences of one length at a time.

    Args:
        counts: [size + 1], how many sequences have each length.

    Returns:
        The bin of each sequence, from the longest sequence to the shortest.
    """
    size = len(counts) - 1
    by_room: list[list[range]] = [[] for _ in range(size + 1)]  # runs of bins
    rooms = 0  # as bits, those that some bin has
    filled: list[tuple[int, int, int]] = []  # (first bin, bins, sequences put in each)
    made = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            enough = rooms >> length
            # The least room: its bit is the lowest.
            room = length + (enough & -enough).bit_length() - 1 if enough else size
            # The fuller bin stays the best one until it has no room for another.
            each = room // length
            needed = -(-left // each)
            if enough:
                bins = _take(by_room[room], needed)
                if not by_room[room]:
                    rooms ^= 1 << room
            else:
                bins = range(made, made + needed)
                made += needed
            last = min(each, left - each * (len(bins) - 1))
            for some, put in ((bins[:-1], each), (bins[-1:], last)):
                if some:
                    filled.append((some.start, len(some), put))
                    after = room - put * length
                    by_room[after].append(some)
                    rooms |= 1 << after
                    left -= put * len(some)
    first, run, put = np.array(filled).T
    # A run's bins: its first one, and each one's place in the run.
    begins = np.cumsum(run) - run
    of_runs = np.repeat(first - begins, run) + np.arange(run.sum())
    return np.repeat(of_runs, np.repeat(put, run))


def _take(runs: list[range], most: int) -> range:
    """Takes bins, `most` of them or fewer, from the last run."""
    last = runs.pop()
    if len(last) > most:
        runs.append(last[most:])
    return last[:most]
