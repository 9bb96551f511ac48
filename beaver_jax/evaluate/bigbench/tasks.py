"""BIG-bench's JSON tasks, read and checked.

Source of the format: Srivastava et al., arXiv 2206.04615, and its repository's page on
JSON tasks. Keys that are not named here change nothing that is computed.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

CHOICE, EXACT = 'multiple_choice_grade', 'exact_str_match'
METRICS = (CHOICE, EXACT)


class TaskError(ValueError):
    """A task's file that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A question with its answers."""

    input: str
    targets: tuple[str, ...]  # any of which is right; the first is shown as a shot
    scores: Mapping[str, float]  # by choice; {} where there is nothing to choose


@dataclasses.dataclass(frozen=True)
class Task:
    """A task. Defaults are those of the format."""

    name: str
    metrics: tuple[str, ...]  # those of METRICS that it asks for
    others: tuple[str, ...]  # and those that are not computed
    preferred: str | None  # the metric that it is judged by, if it says
    examples: tuple[Example, ...]
    task_prefix: str = ''
    example_input_prefix: str = '\nQ: '
    example_output_prefix: str = '\nA: '
    choice_prefix: str = '\n  choice: '
    append_choices_to_input: bool = True
    few_shot_example_separator: str = '\n'
    stop_string: str | None = None
    output_regex: str | None = None


def read(path: str | os.PathLike[str]) -> Task:
    """Reads a task.

    Args:
      path: A task.json, or the directory that holds it.

    Raises:
      TaskError: It is no JSON, or a field is missing or wrong; names file and field.
      OSError: There is no such file.
    """
    file = pathlib.Path(path)
    file = file / 'task.json' if file.is_dir() else file
    try:
        return _task(_object(file.read_text(encoding='utf-8')), file)
    except (TaskError, UnicodeDecodeError) as error:
        raise TaskError(f'{file}: {error}') from error


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f'line {error.lineno} is no JSON ({error.msg}).') from error
    if not isinstance(found, dict):
        raise TaskError('is no JSON object; a task has "examples" and "metrics".')
    return found


def _task(row: dict[str, Any], file: pathlib.Path) -> Task:
    rows = row.get('examples')
    if not isinstance(rows, list) or not rows:
        raise TaskError(
            '"examples" must be a list of questions; a task that is a program, or that '
            'only groups others, cannot be read: name the task.json of each part.'
        )
    asked = row.get('metrics')
    if not isinstance(asked, list) or not all(isinstance(x, str) for x in asked):
        raise TaskError(f'"metrics" must be a list of names, such as ["{CHOICE}"].')
    metrics = tuple(name for name in METRICS if name in asked)
    if not metrics:
        raise TaskError(
            f'"metrics" are {", ".join(asked) or "none"}; of these none is computed '
            f'here, which does {" and ".join(METRICS)}.'
        )
    examples = tuple(_example(one, i) for i, one in enumerate(rows))
    if CHOICE in metrics and not any(one.scores for one in examples):
        raise TaskError(f'{CHOICE} needs "target_scores", and no example has them.')
    others = tuple(name for name in asked if name not in METRICS)
    settings = {
        field.name: _setting(row[field.name], field)
        for field in dataclasses.fields(Task)[5:]
        if row.get(field.name) is not None
    }
    name = row.get('name') or file.absolute().parent.name
    return Task(
        str(name), metrics, others, row.get('preferred_score'), examples, **settings
    )


def _setting(value: Any, field: dataclasses.Field) -> Any:
    kind: Any = bool if field.name == 'append_choices_to_input' else str
    if not isinstance(value, kind):
        raise TaskError(f'"{field.name}" is {value!r:.60}; must be a {kind.__name__}.')
    if field.name == 'output_regex':
        try:
            re.compile(value)
        except re.error as error:
            raise TaskError(f'"output_regex" is {value!r:.60}: {error}.') from error
    return value


def _example(row: Any, index: int) -> Example:
    where = f'examples[{index}]'
    if not isinstance(row, dict) or not isinstance(row.get('input'), str):
        raise TaskError(f'{where} must have a text "input".')
    scores, targets = row.get('target_scores') or {}, row.get('target')
    if not isinstance(scores, dict) or not all(map(_is_number, scores.values())):
        raise TaskError(f'{where}: "target_scores" must hold a number by choice.')
    if '' in scores or len(scores) == 1:
        raise TaskError(f'{where}: "target_scores" needs two choices, none empty.')
    if targets is None:
        best = max(scores.values(), default=0)
        targets = [choice for choice, score in scores.items() if score == best]
    targets = [targets] if isinstance(targets, str) else targets
    texts = isinstance(targets, list) and all(isinstance(x, str) for x in targets)
    if not texts or not targets:
        raise TaskError(f'{where} needs "target", texts, or "target_scores".')
    return Example(row['input'], tuple(targets), scores)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
