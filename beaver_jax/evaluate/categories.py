"""Results by the category of the prompts."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from beaver_jax.evaluate import evaluators


def summarize(
    found: Mapping[str, evaluators.Answers], baseline: str, categories: Sequence[str]
) -> dict[str, Any]:
    """Means over the prompts of each category.

    Args:
      found: Answers to N prompts by policy.
      baseline: Whose rewards the others' are compared with.
      categories: N names, '' of a prompt without one.

    Returns:
      {category: {'prompts': number, 'models': {policy: {name: value}}, 'intervals':
      {policy: {name: [low, high]}} of rates}}; {} where no prompt has a category.
    """
    if not any(categories):
        return {}
    names = np.array(categories)
    told = {}
    for category in dict.fromkeys(categories):
        rows = np.flatnonzero(names == category)
        some = {name: _take(answers, rows) for name, answers in found.items()}
        told[category] = {
            'prompts': len(rows),
            'models': {
                name: dict(evaluators.policy(answers))
                | dict(evaluators.comparison(answers, some[baseline]))
                for name, answers in some.items()
            },
            'intervals': {
                name: evaluators.rate_intervals(answers, some[baseline])
                for name, answers in some.items()
            },
        }
    return told


def _take(answers: evaluators.Answers, rows: np.ndarray) -> evaluators.Answers:
    def some(values: Any) -> Any:
        if isinstance(values, dict):
            return {name: some(value) for name, value in values.items()}
        if isinstance(values, list):
            return [values[row] for row in rows]
        return None if values is None else values[rows]

    fields = dataclasses.fields(answers)
    return evaluators.Answers(
        **{field.name: some(getattr(answers, field.name)) for field in fields}
    )
