"""Reads what the stages of a run left behind."""

from collections.abc import Mapping
import dataclasses
import difflib
import json
import math
import pathlib
import re
from typing import Any

from beaver_jax import layout
from beaver_jax import metrics

STAGES = layout.STAGES
AGAIN = 'write it again by running its stage again'


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage's files; empty where a file is missing."""

    summary: dict[str, Any]
    config: dict[str, Any]
    metrics: list[dict[str, float]]
    timings: list[dict[str, float]]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Returns the steps and the values of a metric, where it is finite."""
        points = [
            (row['step'], row[name])
            for row in self.metrics
            if name in row and math.isfinite(row[name])
        ]
        return [step for step, _ in points], [value for _, value in points]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
      path: The directory.
      stages: By name, in the order of `STAGES`, then by alphabet.
      results: evaluate/results.json, or empty.
      samples: The rows of evaluate/samples.jsonl, or none.
    """

    path: pathlib.Path
    stages: dict[str, Stage]
    results: dict[str, Any]
    samples: list[dict[str, Any]]

    @property
    def policies(self) -> Mapping[str, dict[str, Any]]:
        """What was measured of each evaluated policy, by its name."""
        return self.results.get('models', {})

    @property
    def constraints(self) -> list[str]:
        """Names of the constraints whose cost or multiplier some stage followed."""
        names = {
            found[1]: None
            for stage in self.stages.values()
            for key in {key: None for row in stage.metrics for key in row}
            if (found := re.fullmatch(r'train/(?:cost|lambda)/(.+)', key))
        }
        return list(names)


def load(path: pathlib.Path) -> Run:
    """Reads a run directory.

    Raises:
      FileNotFoundError: There is no such run.
      ValueError: Nothing in it can be reported, or a file is damaged.
    """
    if not path.is_dir():
        raise FileNotFoundError(f'no run at {path}{_neighbours(path)}')
    if (path / metrics.METRICS).exists() or (path / 'summary.json').exists():
        raise ValueError(f'{path} is one stage; report its run: {path.parent}.')
    stages = {
        directory.name: _stage(directory)
        for directory in sorted(path.iterdir(), key=_order)
        if directory.name != 'report'
        and any(
            (directory / file).exists() for file in ('summary.json', metrics.METRICS)
        )
    }
    results = _json(path / 'evaluate' / 'results.json')
    if not stages and not results:
        raise ValueError(
            f'{path} holds nothing to report: no stage with a summary.json or '
            f'{metrics.METRICS}, no evaluate/results.json; train first, e.g. '
            f'python -m beaver_jax.train --config=configs/ppo_lag.py'
        )
    return Run(path, stages, results, _samples(path / 'evaluate' / 'samples.jsonl'))


def _neighbours(path: pathlib.Path) -> str:
    """Says which runs there are instead, the most alike first."""
    parent = path.parent
    if not parent.is_dir():
        return f'; there is no {parent} either.'
    names = sorted(item.name for item in parent.iterdir() if item.is_dir())
    alike = difflib.get_close_matches(path.name, names, n=len(names) or 1, cutoff=0)
    return f'; {parent} holds {", ".join(alike[:8]) or "none"}.'


def _order(directory: pathlib.Path) -> tuple[int, str]:
    names = list(STAGES)
    known = directory.name in STAGES
    return names.index(directory.name) if known else len(names), directory.name


def _stage(directory: pathlib.Path) -> Stage:
    def rows(name: str) -> list[dict[str, float]]:
        path = directory / name
        return metrics.read(path) if path.exists() else []

    return Stage(
        summary=_json(directory / 'summary.json'),
        config=_json(directory / 'config.json'),
        metrics=rows(metrics.METRICS),
        timings=rows(metrics.TIMINGS),
    )


def _json(path: pathlib.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return _parse(path.read_text(encoding='utf-8'), f'{path}')


def _samples(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # Not splitlines, which would also cut at line separators inside of answers.
    lines = path.read_text(encoding='utf-8').split('\n')
    rows = []
    for index, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse(line, where := f'{path}, line {index}')
            if not {'prompt', 'answers'} <= row.keys():
                raise ValueError(f'{where} has no "prompt" and "answers"; {AGAIN}.')
            rows.append(row)
    return rows


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f'{where} is not JSON ({error}); {AGAIN}.') from error
    if not isinstance(value, dict):
        raise ValueError(f'{where} is no JSON object: {text[:60]!r}; {AGAIN}.')
    return value
