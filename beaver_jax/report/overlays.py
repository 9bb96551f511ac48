"""The plots of several runs over each other."""

from collections.abc import Iterator, Sequence
import math

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from beaver_jax.report import comparison
from beaver_jax.report import differences
from beaver_jax.report import files
from beaver_jax.report import pareto
from beaver_jax.report import plots
from beaver_jax.report import style
from beaver_jax.report import summary as summaries

_SMOOTH = 'Mean of neighbouring steps.'
_NEAR = 0.05  # of the axes' length: too close for two names
_LINES = 'Colours are runs, line styles stages.'
_BETTER = 'Up and to the left is better. Bars: 95% intervals of the means.'
_SCALED = ('reward', 'cost/', 'lambda/')
_SCALES = 'Trained under different score models: heights cannot be compared.'


def draw(runs: comparison.Runs) -> list[plots.Chart]:
    """Draws every plot that the runs have data for."""
    with mpl.rc_context(style.MATPLOTLIB):
        charts = [*_curves(runs), *_fronts(runs)]
        for chart in charts:
            plots.arrange(chart.figure)
        return charts


def _curves(runs: comparison.Runs) -> Iterator[plots.Chart]:
    yield from _curve(runs, 'reward', 'Reward')
    constraints = dict.fromkeys(x for run in runs.values() for x in run.constraints)
    for name in constraints:
        yield from _curve(runs, f'cost/{name}', f'Cost: {name}', threshold=name)
        title = f'Multiplier λ of {name}'
        yield from _curve(runs, f'lambda/{name}', title, smooth=False)
    yield from _curve(runs, 'kl_divergence', 'KL divergence from the reference')
    yield from _speed(runs)


def _policies(runs: comparison.Runs) -> Iterator[tuple[str, str, files.Stage]]:
    """Run, name and stage of every stage of reinforcement learning."""
    for run, read in runs.items():
        for name, stage in read.stages.items():
            if stage.is_policy:
                yield run, name, stage


def _curve(
    runs: comparison.Runs,
    metric: str,
    title: str,
    *,
    threshold: str = '',
    smooth: bool = True,
) -> Iterator[plots.Chart]:
    """One line a stage of train/<metric>, and the thresholds of a constraint."""
    figure, axes = plots.new_axes(title, 'step')
    limits: dict[float, str] = {}  # the first run that has each
    for run, name, stage in _policies(runs):
        steps, values = plots.thin(*stage.series(f'train/{metric}'))
        shown = plots.running_mean(values) if smooth else values
        _line(axes, runs, run, name, steps, shown)
        if threshold:
            for limit in stage.series(f'train/threshold/{threshold}')[1][-1:]:
                limits.setdefault(limit, run)
    for limit, run in limits.items():
        alone = len(limits) == 1
        color = style.INK if alone else style.run_look([*runs].index(run))[0]
        plots.threshold(axes, limit, color)
    if plots.legend(axes, columns=2):
        caption = f'{_SMOOTH} {_LINES}' if smooth else _LINES
        if metric.startswith(_SCALED) and not differences.on_one_scale(runs):
            caption += f' {_SCALES}'
        yield plots.Chart(plots.slug(metric), 'learning', caption, figure)


def _speed(runs: comparison.Runs) -> Iterator[plots.Chart]:
    key, title = files.speed(stage for _, _, stage in _policies(runs))
    figure, axes = plots.new_axes(title, 'step')
    for run, name, stage in _policies(runs):
        steps, values = plots.thin(*stage.pace(key))
        _line(axes, runs, run, name, steps, plots.running_mean(values))
    if plots.legend(axes, columns=2):
        caption = f'{_SMOOTH} Without the first step, which compiles. {_LINES}'
        yield plots.Chart('speed', 'learning', caption, figure)


def _line(
    axes: Axes,
    runs: comparison.Runs,
    run: str,
    stage: str,
    steps: np.ndarray,
    values: np.ndarray,
) -> None:
    color, _, marker = style.run_look([*runs].index(run))
    look = (color, style.look(stage)[1], marker)
    plots.line(axes, look, comparison.label(run, stage), steps, values)


def _fronts(runs: comparison.Runs) -> Iterator[plots.Chart]:
    """A picture for each group of runs that can be compared, and each cost."""
    groups = differences.groups(runs)
    for key, cost in comparison.costs(runs).items():
        found = comparison.points(runs, key)
        fronts = comparison.fronts(runs, key)
        for number, (group, front) in enumerate(
            zip(groups, fronts, strict=True), start=1
        ):
            if front:
                apart = len(groups) > 1
                yield plots.Chart(
                    f'front_{plots.slug(key)}' + (f'_{number}' if apart else ''),
                    'front',
                    (f'{", ".join(group)}. ' if apart else '') + _BETTER,
                    _plane(runs, group, found, front, cost),
                )


def _plane(
    runs: comparison.Runs,
    group: Sequence[str],
    found: Sequence[pareto.Point],
    front: Sequence[pareto.Point],
    cost: str,
) -> Figure:
    """The policies of a group's runs by cost and reward, and their front."""
    figure, axes = plots.new_axes(f'Reward against {cost}', cost, 'reward')
    figure.set_size_inches(6.0, 4.0)
    by_run = {[*runs].index(run): _finite(found, run) for run in group}
    for index, own in by_run.items():
        _points(axes, style.run_look(index), own)
    _front(axes, front)
    plots.safety(axes)
    axes.margins(0.12)
    for index, own in by_run.items():
        _names(axes, index, own)
    plots.legend(axes)
    return figure


def _finite(points: Sequence[pareto.Point], run: str) -> list[pareto.Point]:
    """Those of a run that have a place in the plane."""
    return [
        point
        for point in points
        if point.run == run and math.isfinite(point.cost.value + point.reward.value)
    ]


def _points(axes: Axes, look: plots.Look, points: list[pareto.Point]) -> None:
    """A run's policies, with their intervals."""
    color, _, marker = look
    for number, point in enumerate(points):
        x, y = point.cost, point.reward
        axes.errorbar(
            x.value,
            y.value,
            yerr=y.half if y.interval else None,
            xerr=x.half if x.interval else None,
            fmt=marker,
            color=color,
            ecolor=color,
            elinewidth=1,
            markeredgecolor=style.INK,
            markersize=7,
            label=None if number else point.run,
        )


def _names(axes: Axes, index: int, points: list[pareto.Point]) -> None:
    """Names a run's policies; runs write theirs on different sides.

    Those that lie together share a text, or none of them could be read.
    """
    _ = axes.viewLim  # which sets the limits that the places are reckoned from
    places = axes.transData + axes.transAxes.inverted()
    groups: list[tuple[np.ndarray, list[pareto.Point]]] = []
    for point in points:
        place = places.transform((point.cost.value, point.reward.value))
        for first, group in groups:
            if np.abs(place - first).max() < _NEAR:
                group.append(point)
                break
        else:
            groups.append((place, [point]))
    for _, group in groups:
        axes.annotate(
            ', '.join(summaries.label(point.policy) for point in group),
            (group[0].cost.value, group[0].reward.value),
            xytext=(6, -11 if index % 2 else 6),
            textcoords='offset points',
            color=style.run_look(index)[0],
            fontsize=8.5,
        )


def _front(axes: Axes, front: Sequence[pareto.Point]) -> None:
    """Steps: what is reached at no more than a cost."""
    axes.plot(
        [point.cost.value for point in front],
        [point.reward.value for point in front],
        color=style.INK,
        lw=1.2,
        alpha=0.6,
        drawstyle='steps-post',
        zorder=0,
    )
