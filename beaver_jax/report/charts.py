"""The plots of a run, each a matplotlib figure of its own."""

from collections.abc import Iterator, Sequence
import dataclasses
import io
import math
import pathlib
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from beaver_jax.report import files
from beaver_jax.report import style
from beaver_jax.report import summary

POINTS = 400  # of a line; more cannot be seen and would swell the page


@dataclasses.dataclass(frozen=True)
class Chart:
    """A plot.

    Attributes:
      name: Of its file, without the ending.
      section: Where it belongs: 'learning', 'policies' or 'models'.
      caption: What there is to know beside the title.
      figure: The plot.
    """

    name: str
    section: str
    caption: str
    figure: Figure


def draw(run: files.Run) -> list[Chart]:
    """Draws every plot that the run has data for."""
    with mpl.rc_context(style.MATPLOTLIB):
        scatters = (
            chart
            for key, name in summary.costs(run.results).items()
            for chart in _scatter(run, key, name)
        )
        charts = [*_curves(run), *_distributions(run), *scatters, *_elo(run)]
        for chart in charts:
            _arrange(chart.figure)
        return charts


def save(chart: Chart, directory: pathlib.Path) -> pathlib.Path:
    """Writes a chart as a PNG file, dark on white, and returns its path."""
    path = directory / f'{chart.name}.png'
    with mpl.rc_context(style.MATPLOTLIB):
        chart.figure.savefig(path, facecolor='white', metadata={'Software': None})
    return path


def svg(chart: Chart) -> str:
    """Renders an <svg> element that scales, and takes the ink of the page around it."""
    out = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    with mpl.rc_context(style.MATPLOTLIB | {'svg.hashsalt': chart.name}):
        chart.figure.savefig(out, format='svg', transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index('<svg') :].replace(style.INK, 'currentColor')
    return re.sub(r' (?:width|height)="[\d.]+pt"', '', text, count=2)


def _curves(run: files.Run) -> Iterator[Chart]:
    trend = 'Thin: each step; thick: mean of its neighbours.'
    measured = 'Thin: each step; thick: mean of its neighbours; marks: held-out.'
    yield from _curve(run, 'reward', 'Reward', 'learning', trend)
    for name in run.constraints:
        yield from _cost_curve(run, name)
        title = f'Multiplier λ of {name}'
        yield from _curve(run, f'lambda/{name}', title, 'learning', '', smooth=False)
    title = 'KL divergence from the reference'
    yield from _curve(run, 'kl_divergence', title, 'learning', trend)
    title = 'Response length, tokens'
    yield from _curve(run, 'mean_generated_length', title, 'learning', trend)
    yield from _curve(run, 'loss', 'Loss of SFT and score models', 'models', measured)
    yield from _curve(run, 'accuracy', 'Accuracy on pairs', 'models', measured)


def _curve(
    run: files.Run,
    metric: str,
    title: str,
    section: str,
    caption: str,
    *,
    smooth: bool = True,
) -> Iterator[Chart]:
    """One line a stage of train/<metric>, and marks of eval/<metric>."""
    figure, axes = _axes(title, 'step')
    for name, stage in run.stages.items():
        steps, values = _thin(*stage.series(f'train/{metric}'))
        _line(axes, name, steps, values, faint=smooth)
        if smooth:
            _line(axes, name, steps, _running_mean(values))
        _marks(axes, name, *stage.series(f'eval/{metric}'))
    if _legend(axes):
        yield Chart(_slug(metric), section, caption, figure)


def _cost_curve(run: files.Run, constraint: str) -> Iterator[Chart]:
    """The cost of a constraint beside the mean that moves λ, and the threshold."""
    figure, axes = _axes(f'Cost: {constraint}', 'step')
    thresholds: list[float] = []
    for name, stage in run.stages.items():
        costs = _thin(*stage.series(f'train/cost/{constraint}'))
        window = _thin(*stage.series(f'train/episode_cost/{constraint}'))
        _line(axes, name, *costs, faint=True)
        if window[0].size:
            _line(axes, name, *window)
        else:
            _line(axes, name, costs[0], _running_mean(costs[1]))
        _marks(axes, name, *stage.series(f'eval/cost/{constraint}'))
        thresholds += stage.series(f'train/threshold/{constraint}')[1][-1:]
    for threshold in sorted(set(thresholds)):
        axes.axhline(threshold, color=style.INK, linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate(
            f'threshold {threshold:g}',
            (1, threshold),
            xycoords=('axes fraction', 'data'),
            xytext=(0, 3),
            textcoords='offset points',
            ha='right',
        )
    if _legend(axes):
        caption = 'Thin: each step; thick: mean of the window, which moves λ.'
        yield Chart(f'cost_{_slug(constraint)}', 'learning', caption, figure)


def _distributions(run: files.Run) -> Iterator[Chart]:
    by_cost = 'Held-out prompts, by the cost model; safe is < 0.'
    for key, title, caption in (
        ('reward', 'Reward of answers', 'Held-out prompts, by the reward model.'),
        *(
            (key, f'{name.capitalize()} of answers', by_cost)
            for key, name in summary.costs(run.results).items()
        ),
    ):
        found = {name: _scores(run, name, key) for name in _policies(run)}
        scores = {
            name: values[np.isfinite(values)]
            for name, values in found.items()
            if np.isfinite(values).any()
        }
        if not scores:
            continue
        figure, axes = _axes(title, key, 'answers')
        together = np.concatenate([*scores.values()])
        bins = np.histogram_bin_edges(together, bins=32).tolist()
        for name, values in scores.items():
            color, line, _ = style.look(name)
            if name == run.results.get('baseline'):
                axes.hist(values, bins, color=color, alpha=0.35)
            axes.hist(values, bins, histtype='step', color=color, ls=line, lw=1.6)
            axes.plot([], [], color=color, ls=line, label=summary.label(name))
        if key != 'reward':
            _safety_line(axes)
        _legend(axes)
        yield Chart(f'{_slug(key)}_distribution', 'policies', caption, figure)


def _scatter(run: files.Run, key: str, cost: str) -> Iterator[Chart]:
    figure, axes = _axes(f'Reward against {cost}', cost, 'reward')
    for name in _policies(run):
        costs, rewards = _scores(run, name, key), _scores(run, name, 'reward')
        both = np.isfinite(costs) & np.isfinite(rewards)
        if not both.any():
            continue
        color, _, marker = style.look(name)
        axes.scatter(
            costs, rewards, s=9, c=color, marker=marker, alpha=0.35, linewidths=0
        )
        axes.plot(
            [costs[both].mean()],
            [rewards[both].mean()],
            marker,
            color=color,
            markeredgecolor=style.INK,
            markersize=9,
            label=summary.label(name),
        )
    if _legend(axes):
        _safety_line(axes)
        caption = 'One point an answer, by the score models; large: the mean.'
        yield Chart(f'reward_against_{_slug(key)}', 'policies', caption, figure)


def _elo(run: files.Run) -> Iterator[Chart]:
    """The policies in the plane of both ratings."""
    elo = run.results.get('elo', {})
    if len(elo) < 2:
        return
    figure, axes = _axes('Elo', 'helpfulness', 'harmlessness')
    for name in elo['helpfulness']:
        if name not in elo['harmlessness']:
            continue
        x, y = elo['helpfulness'][name], elo['harmlessness'][name]
        color, _, marker = style.look(name)
        axes.errorbar(
            x['rating'],
            y['rating'],
            [[y['rating'] - y['low']], [y['high'] - y['rating']]],
            [[x['rating'] - x['low']], [x['high'] - x['rating']]],
            fmt=marker,
            color=color,
            markeredgecolor=style.INK,
            markersize=8,
            label=summary.label(name),
        )
    _legend(axes)
    caption = 'By rewards and costs of answers to the same prompts; 95% intervals.'
    yield Chart('elo', 'policies', caption, figure)


def _axes(title: str, x: str, y: str = '') -> tuple[Figure, Axes]:
    figure = Figure(layout='constrained')
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _arrange(figure: Figure) -> None:
    """Lays out a figure once for all files; each would do it again, and draw twice."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def _line(
    axes: Axes,
    name: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    faint: bool = False,
) -> None:
    if not steps.size:
        return
    color, line, _ = style.look(name)
    if faint:
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.45)
    else:
        axes.plot(steps, values, line, color=color, lw=1.8, label=summary.label(name))


def _marks(
    axes: Axes, name: str, steps: Sequence[float], values: Sequence[float]
) -> None:
    if steps:
        color, _, marker = style.look(name)
        axes.plot(steps, values, marker, color=color, markeredgecolor=style.INK)


def _safety_line(axes: Axes) -> None:
    axes.axvline(0, color=style.INK, linestyle=(0, (1, 2)), linewidth=1)


def _legend(axes: Axes) -> bool:
    """Names the lines below the plot, where it hides no data; False without any."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc='outside lower left', ncols=4)
    return bool(handles)


def _thin(
    steps: Sequence[float], values: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Means over blocks, so that at most POINTS points are left."""
    size = math.ceil(len(steps) / POINTS) or 1
    starts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(starts, len(steps)))
    if not len(steps):
        return np.zeros(0), np.zeros(0)
    sums = (np.add.reduceat(np.asarray(x, float), starts) for x in (steps, values))
    thin_steps, thin_values = (x / counts for x in sums)
    return thin_steps, thin_values


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each point, cut off at the ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    left = np.maximum(np.arange(len(values)) - half, 0)
    right = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[right] - sums[left]) / (right - left)


def _policies(run: files.Run) -> list[str]:
    answers: dict[str, Any] = run.samples[0].get('answers', {}) if run.samples else {}
    return list(answers)


def _scores(run: files.Run, policy: str, key: str) -> np.ndarray:
    """The score of a policy's answer to each prompt; NaN where there is none."""
    scores = [row['answers'].get(policy, {}).get(key) for row in run.samples]
    return np.array([math.nan if score is None else float(score) for score in scores])


def _slug(name: str) -> str:
    return re.sub(r'\W+', '_', name)
