"""A data card: what there is to know of rows before a model learns from them.

Each row is looked at once; of it stay its lengths, and a hash to tell it from others.
"""

import array
import collections
from collections.abc import Iterable
from typing import Any

import numpy as np

from beaver_jax.data import records
from beaver_jax.data import sources

QUANTILES = {'min': 0, 'p10': 0.1, 'median': 0.5, 'p90': 0.9, 'p99': 0.99, 'max': 1}
SAFETY = {True: 'safe', False: 'unsafe', None: 'unknown'}
PREFERRED = {0: 'first', 1: 'second', None: 'unknown'}


class Lengths:
    """Tokens of rows, before anything is cut."""

    def __init__(self) -> None:
        self._tokens = {name: array.array('i') for name in ('prompt', 'response')}

    def add(self, prompt: int, *responses: int) -> None:
        """Notes a row: the tokens of its prompt and of each response, its EOS too."""
        self._tokens['prompt'].append(prompt)
        self._tokens['response'].extend(responses)

    def all(self) -> dict[str, np.ndarray]:
        """The lengths of prompts; where there are responses, theirs and of both."""
        prompts, responses = map(np.array, self._tokens.values())
        if not len(responses):
            return {'prompt': prompts}
        both = np.repeat(prompts, len(responses) // len(prompts)) + responses
        return {'prompt': prompts, 'response': responses, 'prompt and response': both}


def describe(
    train: Iterable[records.AnyRecord],
    test: Iterable[records.AnyRecord],
    *,
    counts: sources.Counts,
    lengths: Lengths,
) -> dict[str, Any]:
    """The card of the rows of one use.

    Args:
        train: what is learnt from.
        test: what is held out.
        counts: what became of the rows.
        lengths: of those to learn from.

    Returns:
        JSON-like: `counts`; `problems`, the first of each kind, with file and line, by
        the keys of `counts`; `tokens`, quantiles by QUANTILES' names; `train` and
        `test`, each with `rows`, distinct `prompts`, `duplicates` (rows that were there
        before), `turns` of the prompts (rows by their number) and `labels` (responses
        or pairs by what is said of them); and `shared_prompts`, on both sides.
    """
    here, there = _Census(train), _Census(test)
    return {
        'counts': {name: count for name, count in counts.items() if count},
        'problems': counts.problems,
        'tokens': {name: _quantiles(found) for name, found in lengths.all().items()},
        'train': here.summary(),
        'test': there.summary(),
        'shared_prompts': len(np.intersect1d(here.prompts, there.prompts)),
    }


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    shares = list(QUANTILES.values())
    # Lengths that occur, not means of two.
    found = np.quantile(lengths, shares, method='lower').tolist()
    return dict(zip(QUANTILES, found, strict=True)) | {'mean': float(np.mean(lengths))}


class _Census:
    """Counts of records."""

    def __init__(self, found: Iterable[records.AnyRecord]):
        prompts, rows = array.array('Q'), array.array('Q')
        self._turns: collections.Counter[int] = collections.Counter()
        self._labels: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        for record in found:
            prompts.append(sources.hash_of(*record.prompt))
            rows.append(self._count(record))
        self.prompts = np.unique(np.array(prompts, np.uint64))
        self._rows = len(rows)
        self._duplicates = len(rows) - len(np.unique(np.array(rows, np.uint64)))

    def _count(self, record: records.AnyRecord) -> int:
        """Counts a record; returns its hash."""
        self._turns[len(record.prompt)] += 1
        said: list[str] = []
        if isinstance(record, records.Demonstration):
            said = [record.response]
        elif isinstance(record, records.Comparison):
            # A pair the other way round is the same pair.
            said = sorted(record.responses)
            self._add_labels(record)
        return sources.hash_of(record.prompt, said)

    def _add_labels(self, pair: records.Comparison) -> None:
        self._labels['better response'][PREFERRED[pair.better]] += 1
        self._labels['safer response'][PREFERRED[pair.safer]] += 1
        for safe in pair.safe:
            self._labels['response'][SAFETY[safe]] += 1
        for category, harms in pair.harms.items():
            self._labels['harm'][category] += sum(harms)
        for severity in pair.severity or ():
            self._labels['severity'][str(severity)] += 1

    def summary(self) -> dict[str, Any]:
        return {
            'rows': self._rows,
            'prompts': len(self.prompts),
            'duplicates': self._duplicates,
            'turns': {str(n): rows for n, rows in sorted(self._turns.items())},
            'labels': {
                name: dict(counts.most_common())
                for name, counts in self._labels.items()
                if set(counts) != {'unknown'}
            },
        }
