"""Records: what adapters make of rows, and the one check of them.

An adapter fills a record with values, or with `rows.Field`s of its row, unchecked.
`serve` checks what a use needs and returns the record with plain values.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from beaver_jax.data import rows

Need = Literal['better', 'safer', 'harms']
Use = Literal['sft', 'better', 'safer', 'harms', 'prompts']
Turns = tuple[str, ...]  # user, assistant, ..., user
TIE: Any = 'tie'  # as `better` or `safer`: people preferred neither


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to learn."""

    prompt: Turns
    response: str
    where: str = ''  # file and line, for messages
    safe: bool | None = None  # a response that is labelled unsafe is not learnt


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt, and what people said of them."""

    prompt: Turns
    responses: tuple[str, str]
    better: int | None = None  # index of the more helpful response, None if unknown
    safer: int | None = None  # index of the more harmless response, None if unknown
    safe: tuple[bool | None, bool | None] = (None, None)
    where: str = ''
    # By category, whether each response does such harm; empty where unknown.
    harms: Mapping[str, tuple[bool, bool]] = dataclasses.field(
        default_factory=dict, hash=False
    )
    severity: tuple[int, int] | None = None  # of the harm of each; 0 is none


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt to answer."""

    prompt: Turns
    where: str = ''
    category: str = ''  # by which results are told apart; '' without one


AnyRecord = Demonstration | Comparison | Prompt


def serve(record: Any, use: Use, row: rows.Row, where: str = '') -> AnyRecord:
    """The record that a use wants, with everything checked that it needs.

    Args:
        record: from an adapter.
        use: 'prompts' wants the prompt; 'sft' a response, of a pair the better one;
            'better' and 'safer' a pair whose preference is known, 'harms' one whose
            categories of harm are.
        row: that the record is from, for messages.
        where: the row's file and line.

    Raises:
        FieldError: the record cannot serve, or is one to leave out.
    """
    if not isinstance(record, AnyRecord):
        shown = rows.show(record)
        problem = f'its adapter returned {shown}; it must return a record.'
        raise rows.FieldError('adapter_error', problem)
    if use == 'prompts':
        category = row.get('category')
        named = str(category).strip() if isinstance(category, str) else ''
        return Prompt(_turns(record.prompt), where, named)
    if use == 'sft':
        return _demonstration(record, row, where)
    if not isinstance(record, Comparison):
        rows.require(rows.field(row, 'response_0'))
        problem = 'the row has no two responses to compare.'
        raise rows.FieldError('no_preference', problem)
    return _comparison(record, use, where)


def contradicts(pair: Comparison) -> bool:
    """Whether the safer response alone is labelled unsafe."""
    if pair.safer is None:
        return False
    return pair.safe[pair.safer] is False and pair.safe[1 - pair.safer] is True


def contradiction(record: Any) -> str:
    """Says what contradicts what, in the words of the row."""
    pair = _comparison(record, 'safer')
    first, second = (rows.name_of(p, f'safe[{i}]') for i, p in enumerate(record.safe))
    return (
        f'{rows.name_of(record.safer, "safer")} is {pair.safer}, but {first} and '
        f'{second} are {pair.safe[0]} and {pair.safe[1]}.'
    )


def _demonstration(record: AnyRecord, row: rows.Row, where: str) -> Demonstration:
    if isinstance(record, Comparison):
        if _is_tie(record.better):
            raise rows.FieldError('tie', 'neither response is better.')
        better = rows.check_index(record.better, 'better', required=False)
        if better is None:
            problem = 'which of its responses is better is not known.'
            raise rows.FieldError('no_preference', problem)
        response = _both(record.responses, 'responses')[better]
        text = rows.check_text(response, f'responses[{better}]')
        safe = _both(record.safe, 'safe')[better]
        _check_safe(rows.check_flag(safe, f'safe[{better}]', required=False))
        return Demonstration(_turns(record.prompt), text, where)
    if isinstance(record, Prompt):
        _turns(record.prompt)
        rows.require(rows.field(row, 'response', 'output'))
        raise rows.FieldError('bad_field', 'the row has no response to learn.')
    text = rows.check_text(record.response, 'response')
    prompt = _turns(record.prompt)
    # A label that the adapter found is needed: unsafe text must not be learnt.
    safe = record.safe
    if safe is not None:
        safe = rows.check_flag(safe, 'safe', required=True)
    _check_safe(safe)
    return Demonstration(prompt, text, where, safe)


def _check_safe(safe: bool | None) -> None:
    if safe is False:
        raise rows.FieldError('unsafe_response', 'the response is labelled unsafe.')


def _comparison(record: Comparison, use: Use, where: str = '') -> Comparison:
    both = _both(record.responses, 'responses')
    names = [rows.name_of(part, f'responses[{i}]') for i, part in enumerate(both)]
    first, second = map(rows.check_text, both, names)
    if first == second:
        problem = f'{names[0]} and {names[1]} are both {rows.show(first)}.'
        raise rows.FieldError('identical_responses', problem)
    prompt = _turns(record.prompt)
    better = _preference(record.better, 'better', use)
    safer = _preference(record.safer, 'safer', use)
    for_safety = use == 'safer'
    safe = _both(record.safe, 'safe')
    harms = _harms(record.harms)
    if use == 'harms' and not harms:
        problem = 'of its responses no categories of harm are known.'
        raise rows.FieldError('no_preference', problem)
    return Comparison(
        prompt=prompt,
        responses=(first, second),
        better=better,
        safer=safer,
        safe=(
            rows.check_flag(safe[0], 'safe[0]', required=for_safety),
            rows.check_flag(safe[1], 'safe[1]', required=for_safety),
        ),
        where=where,
        harms=harms,
        severity=_severity(record.severity),
    )


def _preference(part: Any, name: str, use: Use) -> int | None:
    if _is_tie(part):
        if use == name:
            raise rows.FieldError('tie', f'neither response is {name}.')
        return None
    if use == name and part is None:
        problem = f'which of its responses is {name} is not known.'
        raise rows.FieldError('no_preference', problem)
    return rows.check_index(part, name, required=use == name)


def _turns(prompt: Any) -> Turns:
    """The prompt's turns, given as one text, as a field, or as a sequence of both."""
    name, value = rows.name_of(prompt, 'prompt'), rows.value_of(prompt)
    if not isinstance(value, list | tuple) or isinstance(value, rows.Missing):
        return (rows.check_text(prompt, 'prompt'),)
    if len(value) % 2 == 0:
        problem = (
            f'field {name!r} has {len(value)} turns; it must go user, assistant, ..., '
            'user.'
        )
        raise rows.FieldError('bad_field', problem)
    return tuple(rows.check_text(t, f'{name}[{i}]') for i, t in enumerate(value))


def _is_tie(part: Any) -> bool:
    return isinstance(part, str) and part == TIE


def _both(parts: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        problem = f'{name} is {rows.show(parts)}; it must be of two, one a response.'
        raise rows.FieldError('bad_field', problem)
    return parts[0], parts[1]


def _harms(harms: Any) -> dict[str, tuple[bool, bool]]:
    if isinstance(harms, Mapping):
        found = {name: _two(both, bool) for name, both in harms.items()}
        if all(isinstance(name, str) for name in found) and all(found.values()):
            return found
    problem = f'harms are {rows.show(harms)}; they must be two bools by category.'
    raise rows.FieldError('bad_field', problem)


def _severity(severity: Any) -> tuple[int, int] | None:
    both = None if severity is None else _two(severity, int)
    if both is None and severity is not None:
        problem = f'severity is {rows.show(severity)}; it must be two whole numbers.'
        raise rows.FieldError('bad_field', problem)
    return both


def _two(both: Any, kind: type) -> Any:
    """A tuple of two values of a type, or None."""
    if isinstance(both, list | tuple) and [type(x) for x in both] == [kind, kind]:
        return tuple(both)
    return None
