"""Rows and the checks of their fields.

Adapters take `Field`s out of a row, and `records` checks those that a use needs, so
that a row of which one field is broken serves where that field does not matter. A
`FieldError` says what is wrong with a row; a `BadRowError` says where, too.
"""

import collections
from collections.abc import Mapping
import json
import os
from typing import Any, Literal, NamedTuple, get_args


class Counts(collections.Counter[str]):
    """What became of rows, by the keys of COUNTED; and the first problem of each."""

    def __init__(self, *args: Any, **counts: int):
        super().__init__(*args, **counts)
        self.problems: dict[str, str] = {}


OnBadRow = Literal['drop', 'error']
Path = str | os.PathLike[str]
Row = Mapping[str, Any]


# What became of rows, in words.
COUNTED = {
    'read': 'rows read',
    'kept': 'usable',
    'not_drawn': 'left out by a proportion',
    'repeated': 'repeated by a proportion',
    'held_out': 'held out',
    'examples': 'to train on',
    'tokens': 'tokens in them',
    'packed': 'sequences that they are packed into',
    'cut_response': 'responses cut to max_length',
    'no_response_left': 'left out, with no response within max_length',
    'identical_tokens': 'pairs left out, alike within max_length',
    'shortened_prompt': 'prompts shortened to max_prompt_length',
    'duplicate_prompt': 'prompts that were there before',
    'contradictory_safety': 'contradictions of safety labels',
    'tie': 'ties, with neither response preferred',
    'unsafe_response': 'responses left out, labelled unsafe',
    'left_out': 'left out by an adapter',
    'other_split': 'of another split',
    'identical_responses': 'pairs of one response',
    'no_preference': 'pairs without the preference that is needed',
    'bad_dialogue': 'dialogues that do not go user, assistant, and so on',
    'bad_field': 'with a field missing or of another type',
    'empty_text': 'with an empty text',
    'adapter_error': 'on which an adapter failed',
    'not_json': 'not JSON',
    'not_an_object': 'no JSON objects',
    'not_csv': 'not CSV',
    'not_utf8': 'not UTF-8',
    'longest': 'tokens in the longest',
}
# Reasons to leave out a row with which nothing is wrong: never an error.
LEFT_OUT = ('tie', 'unsafe_response', 'left_out', 'other_split')


class DataError(ValueError):
    """Input that cannot be used."""


class FieldError(ValueError):
    """What is wrong with a row; `reason` is the key under which it is counted."""

    def __init__(self, reason: str, problem: str):
        super().__init__(problem)
        self.reason = reason
        self.problem = problem


class BadRowError(DataError):
    """One row that cannot be used; `reason` is the key under which it is counted."""

    def __init__(self, reason: str, where: str, problem: str):
        super().__init__(
            f"{where}: {problem} Correct the row, or set on_bad_row='drop' to leave "
            'such rows out.'
        )
        self.reason = reason
        self.problem = f'{where}: {problem}'


class Cell(str):
    """The text of a cell of a file without types, in which '1' may be a number."""

    __slots__ = ()


class Field(NamedTuple):
    """A value of a row, not checked yet, and its name there."""

    name: str
    value: Any


class Missing(NamedTuple):
    """Stands for the value of a field that a row does not have."""

    names: tuple[str, ...]  # any of which would do
    row: Row


def field(row: Row, *names: str) -> Any:
    """The first of the fields `names` that the row has, for a part of a record.

    `Any`, as it stands where the checked value will.
    """
    for name in names:
        if name in row:
            return Field(name, row[name])
    return Field(names[0], Missing(names, row))


def name_of(part: Any, name: str) -> str:
    """What a part of a record is called in its row; `name` if it is from no field."""
    return part.name if isinstance(part, Field) else name


def value_of(part: Any) -> Any:
    """The value of a part of a record, from a field or not."""
    return part.value if isinstance(part, Field) else part


def require(part: Any) -> None:
    """Raises a `FieldError` if a part of a record is from a missing field."""
    value = value_of(part)
    if isinstance(value, Missing):
        there = ', '.join(map(show, value.row))
        raise FieldError(
            'bad_field',
            f'there is no field {" or ".join(map(repr, value.names))}; the row has '
            f'{there if len(there) <= 600 else f"{there[:597]}..."}.'
            if value.row
            else f'there is no field {" or ".join(map(repr, value.names))}; the row '
            'has none.',
        )


def check_text(part: Any, name: str = 'text') -> str:
    """A part of a record if it is a string with more than spaces in it.

    Args:
        part: a `Field`, or a value.
        name: of the value.

    Raises:
        FieldError: it is none.
    """
    require(part)
    name, value = name_of(part, name), value_of(part)
    if not isinstance(value, str):
        problem = f'field {name!r} is {show(value)}; it must be a string.'
        raise FieldError('bad_field', problem)
    if not value.strip():
        problem = f'field {name!r} is {show(value)}; it must not be empty.'
        raise FieldError('empty_text', problem)
    try:
        value.encode()  # JSON can spell half of a surrogate pair; tokenizers fail on it
    except UnicodeEncodeError:
        problem = f'field {name!r} is {show(value)}, with half of a surrogate pair.'
        raise FieldError('bad_field', problem) from None
    return str(value)


def check_index(part: Any, name: str = 'index', *, required: bool) -> int | None:
    """A part of a record if it is 0 or 1; None if it is from a field, not required."""
    value = plain(value_of(part))
    if type(value) is int and value in (0, 1):
        return value
    if required or not _may_be_none(part):
        problem = (
            f'field {name_of(part, name)!r} is {_found(value)}; it must be 0 or 1.'
        )
        raise FieldError('bad_field', problem)
    return None


def check_flag(part: Any, name: str = 'flag', *, required: bool) -> bool | None:
    """A part of a record if it is a bool; None if it is from a field, not required."""
    value = plain(value_of(part))
    if isinstance(value, bool):
        return value
    if required or not _may_be_none(part):
        problem = (
            f'field {name_of(part, name)!r} is {_found(value)}; it must be true or '
            'false.'
        )
        raise FieldError('bad_field', problem)
    return None


def plain(value: Any) -> Any:
    """What a `Cell` spells: a number, a truth value, or text; other values as is."""
    if not isinstance(value, Cell):
        return value
    try:
        return json.loads(value.strip().lower())
    except (ValueError, RecursionError):
        return str(value)


def show(value: Any) -> str:
    """A value for a message: short, and safe for any terminal."""
    shown = ascii(str(value) if isinstance(value, Cell) else value)
    return shown if len(shown) <= 60 else f'{shown[:57]}...'


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises `ValueError` unless `value` is one of a `Literal`'s strings."""
    known = get_args(choices)
    if value not in known:
        raise ValueError(f'{name}={value!r} is unknown; use {" or ".join(known)}.')


def _may_be_none(part: Any) -> bool:
    return part is None or isinstance(part, Field)


def _found(value: Any) -> str:
    return 'missing' if isinstance(value, Missing) else show(value)
