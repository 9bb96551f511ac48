"""The figures of several runs side by side: as one dict, and as tables for people."""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

from beaver_jax import layout
from beaver_jax.report import differences
from beaver_jax.report import files
from beaver_jax.report import pareto
from beaver_jax.report import summary as summaries

Runs = Mapping[str, files.Run]
INTERVALS = (
    'Intervals are of 95%: exact ones of rates; of reward and cost by the normal '
    'approximation, mean ± 1.96·s/√n over the prompts.'
)
_STAGES = {differences.EVALUATION: 'Evaluation'}
FRONT = 'On the front are policies that no other beats in reward and in cost.'


def directory(runs: Sequence[pathlib.Path]) -> pathlib.Path:
    """Where a comparison is written that was not told where: beside the runs.

    Raises:
      ValueError: They are not in one directory.
    """
    # Not resolve: a link to a run elsewhere stands where it stands.
    parents = {pathlib.Path(os.path.abspath(path)).parent for path in runs}
    if len(parents) > 1:
        told = ', '.join(sorted(f'{parent}' for parent in parents))
        raise ValueError(f'the runs are in {told}; say where to write with --out.')
    (parent,), near = parents, runs[0].parent
    # As it was written, if that is the same; of '.' it would be the run itself.
    return (near if os.path.abspath(near) == f'{parent}' else parent) / layout.REPORT


def summarize(runs: Runs) -> dict[str, Any]:
    """Gathers what runs have in common and apart.

    Returns:
      'runs', the summary of each by name, with its 'path', and with 'intervals' of
      means of reward and cost beside those of rates; 'comparable', the groups of runs
      whose scores can be compared; 'notes', what to know before; 'costs', names by
      their keys; 'fronts', by a cost's key the (run, policy) of each policy that no
      other dominates; 'differences' of configs by stage and key.
    """
    return {
        'runs': {
            name: summaries.summarize(run)
            | {'path': f'{run.path}', 'intervals': _intervals(run)}
            for name, run in runs.items()
        },
        'comparable': differences.groups(runs),
        'notes': differences.notes(runs),
        'costs': costs(runs),
        'fronts': {
            key: [
                (point.run, point.policy)
                for front in fronts(runs, key)
                for point in front
            ]
            for key in costs(runs)
        },
        'differences': differences.configs(runs),
    }


def costs(runs: Runs) -> dict[str, str]:
    """Names of the costs of all runs by their keys."""
    found: dict[str, str] = {}
    for run in runs.values():
        if run.policies:
            found = summaries.costs(run.results) | found
    return found


def points(runs: Runs, key: str) -> list[pareto.Point]:
    """All policies of all runs in the plane of a cost and reward."""
    return [
        pareto.Point(
            name,
            policy,
            pareto.measured(run, policy, key),
            pareto.measured(run, policy, 'reward'),
        )
        for name, run in runs.items()
        for policy in run.policies
    ]


def fronts(runs: Runs, key: str) -> list[list[pareto.Point]]:
    """The Pareto front of each group of runs that can be compared."""
    found = points(runs, key)
    return [
        pareto.front([point for point in found if point.run in group])
        for group in differences.groups(runs)
    ]


def _intervals(run: files.Run) -> dict[str, dict[str, Sequence[float]]]:
    """By policy and key: those of rates as evaluated, and those of means."""
    keys = ('reward', *summaries.costs(run.results))
    return {
        policy: dict(run.results.get('intervals', {}).get(policy, {}))
        | {
            key: ends
            for key in keys
            if (ends := pareto.measured(run, policy, key).interval)
        }
        for policy in run.policies
    }


def label(run: str, policy: str) -> str:
    """The name of a run's policy for readers."""
    return f'{run}: {summaries.label(policy)}'


def policies(summary: Mapping[str, Any]) -> list[summaries.Table]:
    """What was measured of each policy of each run, and who is on the front.

    Runs that cannot be compared have tables of their own.
    """
    groups = summary['comparable']
    return [
        _policies(summary, group, f': {", ".join(group)}' if len(groups) > 1 else '')
        for group in groups
    ]


def _policies(
    summary: Mapping[str, Any], group: Sequence[str], whose: str
) -> summaries.Table:
    measured = {
        (name, policy): summaries.told(summary['runs'][name], policy)
        for name in group
        for policy in summary['runs'][name]['policies']
    }
    columns = _columns(summary, group, {k for row in measured.values() for k in row})
    keys = [key for key in summary['costs'] if summary['fronts'][key]]
    rows = []
    for (name, policy), values in measured.items():
        intervals = summary['runs'][name]['intervals'].get(policy, {})
        cells = [
            summaries.estimate(values.get(key), intervals.get(key), share)
            for key, _, share in columns
        ]
        on = [
            'yes' if [name, policy] in map(list, summary['fronts'][key]) else ''
            for key in keys
        ]
        rows.append([label(name, policy), *on, *cells])
    several = len(summary['costs']) > 1
    fronts = [f'front, {summary["costs"][k]}' if several else 'front' for k in keys]
    headings = [*fronts, *(heading for _, heading, _ in columns)]
    first = summary['runs'][group[0]]  # all of a group were asked the same
    asked = summaries.held_out(first) if 'prompts' in first else 'held-out prompts'
    title = f'Policies on {asked}{whose}'
    return summaries.Table(title, ['policy', *headings], rows)


def _columns(
    summary: Mapping[str, Any], group: Sequence[str], keys: set[str]
) -> list[tuple[str, str, bool]]:
    """Key, heading and whether it is a share, of the figures that there are."""
    runs = [summary['runs'][name] for name in group]
    baselines = {run['baseline'] for run in runs if 'baseline' in run}
    headings = dict(summary['costs'])
    if len(baselines) == 1:
        headings['win_rate'] = f"wins over its run's {summaries.label(*baselines)}"
    known = [
        (key, headings.get(key, heading), share)
        for key, heading, share in summaries.POLICY_COLUMNS
        if key in keys
    ]
    told = {key for key, _, _ in known}
    return known + [
        (key, name, False)
        for key, name in summary['costs'].items()
        if key in keys - told
    ]


def multipliers(summary: Mapping[str, Any]) -> summaries.Table:
    """How far each λ of each run went."""
    return _together(summary, summaries.multipliers)


def stages(summary: Mapping[str, Any]) -> summaries.Table:
    """Seconds by run and stage."""
    return _together(summary, summaries.stages)


def _together(summary: Mapping[str, Any], make: Any) -> summaries.Table:
    """One table of all runs: of the columns that any has, in their order."""
    made = {name: make(run) for name, run in summary['runs'].items()}
    columns = list(dict.fromkeys(c for table in made.values() for c in table.columns))
    rows = []
    for name, table in made.items():
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            own, *others = (cells.get(column, '-') for column in columns)
            rows.append([f'{name}: {own}', *others])
    title = next(iter(made.values())).title
    return summaries.Table(title, columns, rows)


def differences_of_configs(summary: Mapping[str, Any]) -> summaries.Table:
    """The keys whose values differ; stages that differ alike share a row."""
    names = list(summary['runs'])
    alike: dict[tuple[str, ...], list[str]] = {}  # stages by key and values
    for stage, keys in summary['differences'].items():
        for key, values in keys.items():
            row = (key, *(values.get(name, '') for name in names))
            alike.setdefault(row, []).append(_STAGES.get(stage, stage))
    rows = [
        [key, *values, ', '.join(map(summaries.label, stages))]
        for (key, *values), stages in sorted(alike.items())
    ]
    return summaries.Table(
        'Differences of configuration', ['key', *names, 'stages'], rows
    )
