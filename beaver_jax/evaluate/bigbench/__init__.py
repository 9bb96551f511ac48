"""BIG-bench's JSON tasks over a language model.

`run` scores every choice, or has an answer generated, and writes `results.json` and
`samples.jsonl`.
"""

from collections.abc import Iterator, Sequence
import json
import logging
import pathlib
from typing import Any

import numpy as np

from beaver_jax import metrics as metrics_lib
from beaver_jax.evaluate import intervals
from beaver_jax.evaluate import language_model
from beaver_jax.evaluate.bigbench import prompts
from beaver_jax.evaluate.bigbench import tasks as tasks_lib
from beaver_jax.rollout import sampling

log = logging.getLogger(__name__)

RESULTS, SAMPLES = 'results.json', 'samples.jsonl'
GREEDY = sampling.Sampler(temperature=0.0)


def check(
    tasks: Sequence[tasks_lib.Task], shots: int, limit: int, out: pathlib.Path
) -> None:
    """Refuses what cannot be run, before a model is loaded.

    Raises:
      ValueError: Two tasks of one name, numbers out of range, fewer examples than
        shots, or results that are there already.
    """
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f'two tasks are called {twice[0]!r}; evaluate them apart.')
    if shots < 0:
        raise ValueError(f'--shots={shots}; must not be negative.')
    if limit < 1:
        raise ValueError(f'--max_new_tokens={limit}; must be at least 1.')
    for task in tasks:
        if shots >= len(task.examples):
            raise ValueError(
                f'--shots={shots}, but {task.name} has {len(task.examples)} examples, '
                f'and so at most {len(task.examples) - 1} others to show.'
            )
    if (out / RESULTS).exists():
        raise ValueError(f'{out / RESULTS} is there already; choose another --out.')


def run(
    model: language_model.LanguageModel,
    tasks: Sequence[tasks_lib.Task],
    *,
    shots: int = 0,
    seed: int = 0,
    limit: int = 64,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Evaluates a model on tasks.

    Args:
      model: Of any kind of text.
      tasks: From `tasks.read`.
      shots: Other examples that stand with their answers before each.
      seed: Of the order of choices and of which examples are shown.
      limit: The most tokens of a generated answer.

    Returns:
      ({task: what results.json holds of it}, the rows of samples.jsonl).
    """
    results, samples = {}, []
    for task in tasks:
        log.info('bigbench: %s, %d examples', task.name, len(task.examples))
        rows: list[dict[str, Any]] = [
            {
                'task': task.name,
                'example': index,
                'prompt': prompts.prompt(task, index, shots, seed),
                'targets': list(one.targets),
            }
            for index, one in enumerate(task.examples)
        ]
        if tasks_lib.CHOICE in task.metrics:
            _choose(model, task, rows, seed)
        if tasks_lib.EXACT in task.metrics:
            _answer(model, task, rows, limit)
        results[task.name] = summary(task, rows)
        samples += rows
    return results, samples


def _choose(model, task, rows: list[dict[str, Any]], seed: int) -> None:
    """Adds the choice of the highest log-probability to every row that has choices."""
    offered = {
        i: prompts.choices(task, i, seed)
        for i, one in enumerate(task.examples)
        if one.scores
    }
    pairs = [
        model.texts.pair(rows[i]['prompt'], choice)
        for i, listed in offered.items()
        for choice in listed
    ]
    said = iter(model.score(pairs))
    for i, listed in offered.items():
        logps = {choice: next(said).logp for choice in listed}
        chosen = max(logps, key=lambda choice: logps[choice])
        grade = task.examples[i].scores[chosen]
        rows[i] |= {'logps': logps, 'chosen': chosen, tasks_lib.CHOICE: grade}


def _answer(model, task, rows: list[dict[str, Any]], limit: int) -> None:
    """Adds a greedy answer to every row."""
    ends = prompts.stops(task)
    asked = [
        language_model.Prompt(
            model.texts.encode(row['prompt']) or [model.texts.first_id],
            limit,
            GREEDY,
            ends,
        )
        for row in rows
    ]
    found = model.generate(asked)
    for row, example, ids in zip(rows, task.examples, found, strict=True):
        text = prompts.answer(task, model.texts.decode(ids), ends)
        right = prompts.is_target(text, example.targets)
        row |= {'answer': text, tasks_lib.EXACT: float(right)}


def summary(task: tasks_lib.Task, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of a task's metrics, with exact 95% intervals where all grades are 0 or 1.

    Args:
      task: Names the metrics.
      rows: Of samples.jsonl.
    """
    told = {}
    for metric in task.metrics:
        grades = [row[metric] for row in rows if metric in row]
        binary = all(grade in (0, 1) for grade in grades)
        told[metric] = {
            'value': float(np.mean(grades)),
            'interval': intervals.of_share(grades) if binary else None,
            'examples': len(grades),
        }
    return {
        'metrics': told,
        'preferred_score': task.preferred,
        'not_computed': list(task.others),
    }


def write(
    out: pathlib.Path, results: dict[str, Any], samples: Sequence[dict[str, Any]]
) -> None:
    """Writes samples.jsonl and, last, results.json, into a directory."""
    with (out / SAMPLES).open('w', encoding='utf-8') as lines:
        for row in samples:
            text = json.dumps(metrics_lib.jsonable(row), ensure_ascii=False)
            lines.write(f'{text}\n')
    metrics_lib.write_json(out / RESULTS, results)
    log.info('bigbench: wrote %s and %s', out / RESULTS, SAMPLES)


def table(results: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """A row a metric: its task and name, value, interval."""
    for name, one in results['tasks'].items():
        for metric, told in one['metrics'].items():
            ends = told['interval']
            shown = '-' if ends is None else f'{ends[0]:.3f} to {ends[1]:.3f}'
            yield f'{name} {metric}', told['value'], shown
