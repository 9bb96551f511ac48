"""Sources of rows as uniform records, each one checked.

What a file may do wrong is found here, before anything is compiled, and every message
names file, line, field, value and the way out. Rows that cannot be used are dropped and
counted, or end the run, as the caller's policy says.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
import os
import pickle
from typing import Any, Literal, TypeVar

import numpy as np

from beaver_jax.data import adapters
from beaver_jax.data import files
from beaver_jax.data import records
from beaver_jax.data import rows
from beaver_jax.data import specs
from beaver_jax.data import store

Counts = rows.Counts
DataError = rows.DataError

Contradictions = Literal['drop', 'keep_ranking', 'error']
Need = records.Need
Source = rows.Path | specs.Spec
Paths = Source | Sequence[Source]
Demonstration = records.Demonstration
Comparison = records.Comparison
Prompt = records.Prompt
_KINDS: dict[records.Use, type[records.AnyRecord]] = {
    'sft': Demonstration,
    'better': Comparison,
    'safer': Comparison,
    'harms': Comparison,
    'prompts': Prompt,
}
Record = TypeVar('Record', Demonstration, Comparison, Prompt)

# What an adapter of the user's own raises where a row is not as it expects.
_ADAPTER_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def read(
    source: specs.Spec,
    use: records.Use,
    *,
    on_bad_row: rows.OnBadRow = 'drop',
    contradictions: Contradictions = 'drop',
    counts: Counts | None = None,
    dropped: Callable[[rows.BadRowError], Any] = lambda error: None,
) -> Iterator[records.AnyRecord]:
    """Yields the record of each row that serves a use.

    Rows are read as they are asked for. Proportions, and what prompts were there
    before, are up to the caller, such as `prompts`.

    Args:
        source: one that `specs.parse` returns.
        use: what the records are for; see `records.serve`.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        contradictions: see `comparisons`.
        counts: gets `read` and the number of rows by what became of them.
        dropped: is called with each row that is dropped because it is bad.

    Raises:
        DataError: a file is missing or unusable, a bad row or a contradiction under
            'error'.
    """
    rows.check_choice('on_bad_row', on_bad_row, rows.OnBadRow)
    rows.check_choice('contradictions', contradictions, Contradictions)
    counts = Counts() if counts is None else counts
    found = files.read_rows(
        source.path,
        split=source.split,
        folder=source.folder,
        on_bad_row=on_bad_row,
        counts=counts,
        dropped=dropped,
    )
    for where, row in found:
        try:
            record = _record(source, row, use, contradictions, counts, where)
        except rows.FieldError as error:
            counts[error.reason] += 1
            if error.reason in rows.LEFT_OUT:
                continue
            bad = rows.BadRowError(error.reason, where, error.problem)
            if on_bad_row == 'error':
                raise bad from None
            dropped(bad)
        else:
            if record is not None:
                yield record


def demonstrations(
    paths: Paths,
    *,
    on_bad_row: rows.OnBadRow = 'drop',
    seed: int = 0,
    counts: Counts | None = None,
) -> store.Stored[Demonstration]:
    """Reads responses to learn: of pairs, the better one.

    Args:
        paths: one or several files, or what `specs.parse` makes of entries.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        seed: of the rows that proportions draw.
        counts: gets `read`, `kept` and the number of bad rows by reason.

    Raises:
        DataError: a file is missing or unusable, a bad row under 'error', or no row is
            left.
    """
    return _collect(paths, 'sft', seed, counts, on_bad_row=on_bad_row)


def comparisons(
    paths: Paths,
    *,
    need: Need,
    on_bad_row: rows.OnBadRow = 'drop',
    contradictions: Contradictions = 'drop',
    seed: int = 0,
    counts: Counts | None = None,
) -> store.Stored[Comparison]:
    """Reads pairs of responses, and which one people preferred.

    Args:
        paths: one or several files, or what `specs.parse` makes of entries.
        need: which preference must be there: 'better', or 'safer' with the safety
            labels of both. In PKU-SafeRLHF's columns 'better' asks for
            `better_response_id`; 'safer' for `safer_response_id`, `is_response_0_safe`
            and `is_response_1_safe`. The other labels are taken where they are usable.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        contradictions: what becomes of a pair whose safer response is labelled unsafe
            and the other safe, for need='safer': 'drop' it, 'keep_ranking' with both
            safety labels unknown, or 'error'.
        seed: of the rows that proportions draw.
        counts: gets `read`, `kept`, the number of bad rows by reason, and
            `contradictory_safety` whatever became of them.

    Raises:
        DataError: a file is missing or unusable, a bad row or a contradiction under
            'error', or no row is left.
    """
    rows.check_choice('need', need, Need)
    policies = {'on_bad_row': on_bad_row, 'contradictions': contradictions}
    return _collect(paths, need, seed, counts, **policies)


def prompts(
    paths: Paths,
    *,
    on_bad_row: rows.OnBadRow = 'drop',
    seed: int = 0,
    counts: Counts | None = None,
) -> store.Stored[Prompt]:
    """Reads the prompts of rows of any kind; of exact duplicates the first is kept.

    Args:
        paths: one or several files, or what `specs.parse` makes of entries.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        seed: of the rows that proportions draw.
        counts: gets `read`, `kept`, `duplicate_prompt` and the bad rows by reason.

    Raises:
        DataError: a file is missing or unusable, a bad row under 'error', or no row is
            left.
    """
    counts = Counts() if counts is None else counts
    found = _collect(paths, 'prompts', seed, counts, on_bad_row=on_bad_row)
    hashes = np.fromiter((hash_of(*r.prompt) for r in found), np.uint64)
    first = np.sort(np.unique(hashes, return_index=True)[1])
    if len(first) < len(found):
        counts['duplicate_prompt'] += len(found) - len(first)
        counts['kept'] -= len(found) - len(first)
    return found.take(first)


def hash_of(*parts: Any) -> int:
    """64 bits that tell texts and numbers apart, and look random."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], 'big')


def held_out(
    records: store.Stored[Record], test_share: float, seed: int
) -> tuple[store.Stored[Record], store.Stored[Record]]:
    """Splits records by prompt into those to train on and those held out.

    A hash of the prompt and the seed decides, so all rows of a prompt stay on one side,
    in every file and stage, and whatever other rows there are.

    Args:
        records: what to split; the order is kept.
        test_share: of the prompts, to hold out on average; from 0 to below 1.
        seed: another seed holds out other prompts.

    Raises:
        ValueError: `test_share` is out of range.
        DataError: one side would be empty.
    """
    if not 0 <= test_share < 1:
        raise ValueError(f'test_share={test_share} is not a share; use 0 to below 1.')
    sides: tuple[list[int], list[int]] = [], []
    for index, record in enumerate(records):
        sides[_share(record.prompt, seed) < test_share].append(index)
    train, test = sides
    if not train or (test_share > 0 and not test):
        raise DataError(
            f'test_share={test_share} of {len(records)} rows gives {len(train)} to '
            f'train on and {len(test)} held out; change it, or give more prompts.'
        )
    return records.take(train), records.take(test)


def _collect(
    paths: Paths, use: records.Use, seed: int, counts: Counts | None, **policies: Any
) -> store.Stored[Any]:
    """The records of all sources that serve a use, as many as are wanted of each."""
    counts = Counts() if counts is None else counts
    named = _specs(paths)
    sources = [spec for spec in named if spec.wanted]
    for spec in sources:
        spec.check()
    sizes: list[int] = []

    def each() -> Iterator[Any]:
        for spec in sources:
            size = 0
            for record in _some(spec, use, counts, **policies):
                size += 1
                yield record
            sizes.append(size)

    loads = functools.partial(_of_fields, _KINDS[use])
    found = store.collect(each(), dumps=_fields, loads=loads)
    kept = found.take(_draw(sizes, sources, seed, counts))
    if not kept:
        told = ', '.join(spec.path for spec in named) or 'no files'
        raise DataError(
            f'No row is wanted of {told}; name files that have some, '
            'and larger proportions.'
        )
    counts['kept'] += len(kept)
    return kept


def _fields(record: records.AnyRecord) -> bytes:
    """A record's fields, in order: in a sixth of the time that its pickle takes."""
    return pickle.dumps(tuple(vars(record).values()))


def _of_fields(kind: type[records.AnyRecord], data: bytes) -> records.AnyRecord:
    return kind(*pickle.loads(data))


def _some(
    spec: specs.Spec, use: records.Use, counts: Counts, **policies: Any
) -> Iterator[records.AnyRecord]:
    """`read`, of a source that must have some usable row."""
    mine = Counts()
    first: list[str] = []

    def note(error: rows.BadRowError) -> None:
        counts.problems.setdefault(error.reason, error.problem)
        if not first:
            first.append(f' The first: {error.problem}')

    usable = False
    try:
        for record in read(spec, use, counts=mine, dropped=note, **policies):
            usable = True
            yield record
    finally:
        counts.update(mine)
    if not usable:
        told = ', '.join(f'{key} {n}' for key, n in mine.items() if n)
        raise DataError(
            f'No usable row in {spec.path} ({told or "read 0"}); name files that have '
            f'some.{"".join(first)}'
        )


def _draw(
    sizes: Sequence[int],
    sources: Sequence[specs.Spec],
    seed: int,
    counts: Counts,
) -> np.ndarray:
    """Which records, of all sources together, their proportions want."""
    # As in safe-rlhf, where a source that is not read gets no seed.
    seeds = np.random.SeedSequence(seed).spawn(len(sources))
    wanted = [np.zeros(0, np.int64)]
    start = 0
    for size, spec, child in zip(sizes, sources, seeds, strict=True):
        drawn = specs.select(size, spec.proportion, child)
        wanted.append(start + drawn)
        start += size
        different = len(np.unique(drawn))
        if different < size:
            counts['not_drawn'] += size - different
        if different < len(drawn):
            counts['repeated'] += len(drawn) - different
    return np.concatenate(wanted)


def _specs(paths: Paths) -> list[specs.Spec]:
    several = [paths] if isinstance(paths, str | os.PathLike | specs.Spec) else paths
    return [
        spec if isinstance(spec, specs.Spec) else specs.Spec(os.fspath(spec))
        for spec in several
    ]


def _record(
    spec: specs.Spec,
    row: rows.Row,
    use: records.Use,
    contradictions: Contradictions,
    counts: Counts,
    where: str,
) -> records.AnyRecord | None:
    """The record of a row, checked; None for a contradiction that is dropped."""
    made = _adapt(spec, row)
    record = records.serve(made, use, row, where)
    if not isinstance(record, Comparison) or use != 'safer':
        return record
    if not records.contradicts(record):
        return record
    counts['contradictory_safety'] += 1
    if contradictions == 'error':
        raise DataError(
            f'{where}: {records.contradiction(made)} Correct the row, or set '
            "contradictions='drop' or 'keep_ranking'."
        )
    if contradictions == 'drop':
        return None
    return dataclasses.replace(record, safe=(None, None))


def _adapt(spec: specs.Spec, row: rows.Row) -> Any:
    """What the source's adapter makes of a row, unchecked."""
    adapter = spec.adapter or adapters.detect(row)
    try:
        made = adapter(row)
    except rows.FieldError:
        raise
    except _ADAPTER_ERRORS as error:
        kind = type(error).__name__
        problem = f'the adapter {spec.name or adapter} failed ({kind}: {error}).'
        raise rows.FieldError('adapter_error', problem) from error
    if made is None:
        raise rows.FieldError('left_out', 'its adapter leaves the row out.')
    return made


def _share(prompt: tuple[str, ...], seed: int) -> float:
    """A number in [0, 1) that depends on prompt and seed and looks random."""
    return hash_of(seed, *prompt) / 2**64
