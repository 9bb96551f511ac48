"""Rows of local files as uniform records, each one checked.

What a file may do wrong is found here, before anything is compiled, and every message
names file, line, field, value and the way out. Rows that cannot be used are dropped and
counted, or end the run, as the caller's policy says.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
from typing import Literal, TypeVar

from beaver_jax.data import rows

Counts = rows.Counts
DataError = rows.DataError

Contradictions = Literal['drop', 'keep_ranking', 'error']
Need = Literal['better', 'safer']
Paths = rows.Path | Sequence[rows.Path]


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to learn."""

    prompt: tuple[str, ...]  # user, assistant, ..., user
    response: str
    where: str  # file and line, for messages


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt, and what people said of them."""

    prompt: tuple[str, ...]  # user, assistant, ..., user
    responses: tuple[str, str]
    better: int | None  # index of the more helpful response, None if unknown
    safer: int | None  # index of the more harmless response, None if unknown
    safe: tuple[bool | None, bool | None]
    where: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt to answer."""

    prompt: tuple[str, ...]  # user, assistant, ..., user
    where: str


Record = TypeVar('Record', Demonstration, Comparison, Prompt)


def demonstrations(
    paths: Paths, *, on_bad_row: rows.OnBadRow = 'drop', counts: Counts | None = None
) -> list[Demonstration]:
    """Reads rows with `prompt` and `response`, or Alpaca's three fields.

    An Alpaca row's prompt is `instruction`, then a space and `input` if there is one;
    its response is `output`. A `prompt` is a string, or for a dialogue a list of
    strings that go user, assistant, ..., user.

    Args:
        paths: one or several .jsonl or .json files.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        counts: gets `read`, `kept` and the number of bad rows by reason.

    Raises:
        DataError: a file is missing or unusable, a bad row under 'error', or no row is
            left.
    """

    def parse(row: rows.Row, where: str) -> Demonstration:
        response = rows.text_field(row, where, 'response', 'output')
        return Demonstration(_prompt(row, where), response, where)

    return _collect(paths, parse, on_bad_row, counts)


def comparisons(
    paths: Paths,
    *,
    need: Need,
    on_bad_row: rows.OnBadRow = 'drop',
    contradictions: Contradictions = 'drop',
    counts: Counts | None = None,
) -> list[Comparison]:
    """Reads pairs in PKU-SafeRLHF's schema; other columns are ignored.

    Args:
        paths: one or several .jsonl or .json files.
        need: which preference must be there. 'better' asks for `better_response_id`;
            'safer' for `safer_response_id`, `is_response_0_safe` and
            `is_response_1_safe`. The other labels are taken where they are usable.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        contradictions: what becomes of a pair whose safer response is labelled unsafe
            and the other safe, for need='safer': 'drop' it, 'keep_ranking' with both
            safety labels unknown, or 'error'.
        counts: gets `read`, `kept`, the number of bad rows by reason, and
            `contradictory_safety` whatever became of them.

    Raises:
        DataError: a file is missing or unusable, a bad row or a contradiction under
            'error', or no row is left.
    """
    rows.check_choice('need', need, Need)
    rows.check_choice('contradictions', contradictions, Contradictions)
    counts = Counts() if counts is None else counts

    def parse(row: rows.Row, where: str) -> Comparison | None:
        pair = _comparison(row, where, need)
        if need == 'better' or not _contradicts(pair):
            return pair
        counts['contradictory_safety'] += 1
        if contradictions == 'error':
            raise DataError(
                f'{where}: safer_response_id is {pair.safer}, but is_response_0_safe '
                f'and is_response_1_safe are {pair.safe[0]} and {pair.safe[1]}. '
                "Correct the row, or set contradictions='drop' or 'keep_ranking'."
            )
        if contradictions == 'drop':
            return None
        return dataclasses.replace(pair, safe=(None, None))

    return _collect(paths, parse, on_bad_row, counts)


def prompts(
    paths: Paths, *, on_bad_row: rows.OnBadRow = 'drop', counts: Counts | None = None
) -> list[Prompt]:
    """Reads the prompts of rows of any kind; of exact duplicates the first is kept.

    Args:
        paths: one or several .jsonl or .json files.
        on_bad_row: whether a row that cannot be used is dropped or an error.
        counts: gets `read`, `kept`, `duplicate_prompt` and the bad rows by reason.

    Raises:
        DataError: a file is missing or unusable, a bad row under 'error', or no row is
            left.
    """
    counts = Counts() if counts is None else counts
    seen: set[tuple[str, ...]] = set()

    def parse(row: rows.Row, where: str) -> Prompt | None:
        prompt = _prompt(row, where)
        if prompt in seen:
            counts['duplicate_prompt'] += 1
            return None
        seen.add(prompt)
        return Prompt(prompt, where)

    return _collect(paths, parse, on_bad_row, counts)


def held_out(
    records: Sequence[Record], test_share: float, seed: int
) -> tuple[list[Record], list[Record]]:
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
    sides: tuple[list[Record], list[Record]] = [], []
    for record in records:
        sides[_share(record.prompt, seed) < test_share].append(record)
    train, test = sides
    if not train or (test_share > 0 and not test):
        raise DataError(
            f'test_share={test_share} of {len(records)} rows gives {len(train)} to '
            f'train on and {len(test)} held out; change it, or give more prompts.'
        )
    return sides


def _collect(
    paths: Paths,
    parse: Callable[[rows.Row, str], Record | None],
    on_bad_row: rows.OnBadRow,
    counts: Counts | None,
) -> list[Record]:
    """The records that `parse` makes of all rows; None for a row left out."""
    counts = Counts() if counts is None else counts
    before = counts.copy()
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    files = [rows.check_file(path) for path in several]
    records: list[Record] = []
    first_problem = ''
    for path in files:
        for where, row in rows.read_rows(path, on_bad_row=on_bad_row, counts=counts):
            try:
                record = parse(row, where)
            except rows.BadRowError as error:
                counts[error.reason] += 1
                if on_bad_row == 'error':
                    raise
                first_problem = first_problem or f' The first: {error.problem}'
            else:
                if record is not None:
                    records.append(record)
    counts['kept'] += len(records)
    if not records:
        found = ', '.join(f'{k} {n}' for k, n in (counts - before).items())
        raise DataError(
            f'No usable row in {", ".join(map(str, files)) or "no files"} '
            f'({found or "read 0"}); name files that have some.{first_problem}'
        )
    return records


def _comparison(row: rows.Row, where: str, need: Need) -> Comparison:
    first, second = (rows.text_field(row, where, f'response_{i}') for i in (0, 1))
    if first == second:
        problem = f'response_0 and response_1 are both {rows.show(first)}.'
        raise rows.BadRowError('identical_responses', where, problem)
    for_safety = need == 'safer'
    return Comparison(
        prompt=_prompt(row, where),
        responses=(first, second),
        better=rows.index_field(
            row, where, 'better_response_id', required=not for_safety
        ),
        safer=rows.index_field(row, where, 'safer_response_id', required=for_safety),
        safe=(
            rows.flag_field(row, where, 'is_response_0_safe', required=for_safety),
            rows.flag_field(row, where, 'is_response_1_safe', required=for_safety),
        ),
        where=where,
    )


def _contradicts(pair: Comparison) -> bool:
    assert pair.safer is not None
    return pair.safe[pair.safer] is False and pair.safe[1 - pair.safer] is True


def _prompt(row: rows.Row, where: str) -> tuple[str, ...]:
    turns = row.get('prompt')
    if isinstance(turns, list):
        if len(turns) % 2 == 0:
            problem = (
                f"field 'prompt' has {len(turns)} turns; it must go user, assistant, "
                '..., user.'
            )
            raise rows.BadRowError('bad_field', where, problem)
        texts = enumerate(turns)
        return tuple(rows.check_text(t, where, f'prompt[{i}]') for i, t in texts)
    text = rows.text_field(row, where, 'prompt', 'instruction')
    extra = row.get('input')
    if 'prompt' in row or extra is None or extra == '':
        return (text,)
    return (f'{text} {rows.check_text(extra, where, "input")}',)


def _share(prompt: tuple[str, ...], seed: int) -> float:
    """A number in [0, 1) that depends on prompt and seed and looks random."""
    digest = hashlib.sha256(json.dumps([seed, *prompt]).encode()).digest()
    return int.from_bytes(digest[:8], 'big') / 2**64
