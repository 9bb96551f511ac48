"""Reads what the stages of a run left behind."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import re
from typing import Any

from beaver_jax import layout
from beaver_jax import metrics

STAGES = layout.STAGES
AGAIN = 'write it again by running its stage again'


Series = tuple[list[float], list[float]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage's files; empty where a file is missing."""

    summary: dict[str, Any]
    config: dict[str, Any]
    metrics: list[dict[str, float]]
    timings: list[dict[str, float]]

    @property
    def is_policy(self) -> bool:
        """Whether it learned from rewards of its own answers."""
        return any('train/reward' in row for row in self.metrics)

    def series(self, name: str) -> Series:
        """Returns the steps and the values of a metric, where it is finite."""
        return _series(self.metrics, name)

    def pace(self, name: str) -> Series:
        """The same of a timing, without the first step, which compiles."""
        return _series(self.timings[1:], name)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
      path: The directory.
      stages: By name, in the order of `STAGES`, then by alphabet.
      results: evaluate/results.json, or empty.
      evaluation: evaluate/config.json, or empty.
      samples: The rows of evaluate/samples.jsonl, or none.
    """

    path: pathlib.Path
    stages: dict[str, Stage]
    results: dict[str, Any]
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]

    @property
    def policies(self) -> Mapping[str, dict[str, Any]]:
        """What was measured of each evaluated policy, by its name."""
        return self.results.get('models', {})

    @property
    def answering(self) -> list[str]:
        """The policies whose answers the samples hold."""
        return list(self.samples[0]['answers']) if self.samples else []

    def scores(self, policy: str, key: str) -> list[float]:
        """The score of a policy's answer to each prompt; NaN where there is none."""
        found = (row['answers'].get(policy, {}).get(key) for row in self.samples)
        return [math.nan if score is None else float(score) for score in found]

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
        raise FileNotFoundError(f'no run at {path}{layout.neighbours(path)}')
    own = (layout.SUMMARY, layout.RESULTS, metrics.METRICS)
    if any((path / name).exists() for name in own):
        raise ValueError(f'{path} is a part of a run; report the run: {path.parent}.')
    stages = {
        directory.name: _stage(directory)
        for directory in sorted(path.iterdir(), key=_order)
        if not (layout.is_report(directory) or layout.is_aside(directory))
        and any(
            (directory / file).exists() for file in ('summary.json', metrics.METRICS)
        )
    }
    evaluated = path / 'evaluate'
    results = _json(evaluated / layout.RESULTS)
    if not stages and not results:
        raise ValueError(
            f'{path} holds nothing to report: no stage with a summary.json or '
            f'{metrics.METRICS}, no evaluate/results.json; train first, e.g. '
            f'python -m beaver_jax.train --config=configs/ppo_lag.py'
        )
    return Run(
        path,
        stages,
        results,
        evaluation=_json(evaluated / layout.CONFIG),
        samples=_samples(evaluated / 'samples.jsonl'),
    )


def speed(stages: Iterable[Stage]) -> tuple[str, str]:
    """The timing that tells how fast stages are, and its name for readers."""
    if any('tokens_per_second' in row for stage in stages for row in stage.timings):
        return 'tokens_per_second', 'Speed, tokens per second'
    return 'time/step', 'Seconds per step'


def _series(rows: Sequence[Mapping[str, float]], name: str) -> Series:
    points = [
        (row['step'], row[name])
        for row in rows
        if name in row and math.isfinite(row[name])
    ]
    return [step for step, _ in points], [value for _, value in points]


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
