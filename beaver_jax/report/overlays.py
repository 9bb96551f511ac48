"""The plots of several runs over each other."""

from collections.abc import Iterator
import math

import matplotlib as mpl
from matplotlib.axes import Axes
import numpy as np

from beaver_jax.report import comparison
from beaver_jax.report import differences
from beaver_jax.report import files
from beaver_jax.report import pareto
from beaver_jax.report import plots
from beaver_jax.report import style
from beaver_jax.report import summary as summaries

_SMOOTH = 'Mean of neighbouring steps.'
_LINES = 'Colours are runs, line styles stages.'


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
    for key, cost in comparison.costs(runs).items():
        found = comparison.points(runs, key)
        fronts = comparison.fronts(runs, key)
        if not any(fronts):
            continue
        figure, axes = plots.new_axes(f'Reward against {cost}', cost, 'reward')
        figure.set_size_inches(6.0, 4.0)
        for index, run in enumerate(runs):
            own = [point for point in found if point.run == run]
            _points(axes, run, index, own)
        for front in fronts:
            _front(axes, front)
        plots.safety(axes)
        axes.margins(0.12)
        plots.legend(axes)
        caption = 'Up and to the left is better. Bars: 95% intervals of the means.'
        if len(differences.groups(runs)) > 1:
            caption += (
                ' Not all of these runs can be compared, see above: each group has a '
                'front of its own.'
            )
        yield plots.Chart(f'front_{plots.slug(key)}', 'front', caption, figure)


def _points(axes: Axes, run: str, index: int, points: list[pareto.Point]) -> None:
    """A run's policies, each with its name; runs write theirs on different sides."""
    color, _, marker = style.run_look(index)
    side = (6, 6) if index % 2 == 0 else (6, -11)
    finite = [p for p in points if math.isfinite(p.cost.value + p.reward.value)]
    for number, point in enumerate(finite):
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
            label=None if number else run,
        )
        axes.annotate(
            summaries.label(point.policy),
            (x.value, y.value),
            xytext=side,
            textcoords='offset points',
            color=color,
            fontsize=8.5,
        )


def _front(axes: Axes, front: list[pareto.Point]) -> None:
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
