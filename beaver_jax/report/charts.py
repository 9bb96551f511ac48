"""The plots of a run, each a matplotlib figure of its own."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
import numpy as np

from beaver_jax.report import files
from beaver_jax.report import plots
from beaver_jax.report import score_models
from beaver_jax.report import style
from beaver_jax.report import summary

_TREND = 'Thin: each step; thick: mean of its neighbours.'
_MARKS = ' Marks: held-out.'


def draw(run: files.Run) -> list[plots.Chart]:
    """Draws every plot that the run has data for."""
    with mpl.rc_context(style.MATPLOTLIB):
        scatters = (
            chart
            for key, name in summary.costs(run.results).items()
            for chart in _scatter(run, key, name)
        )
        charts = [
            *_curves(run),
            *_speeds(run),
            *_distributions(run),
            *scatters,
            *_elo(run),
            *score_models.draw(run),
        ]
        for chart in charts:
            plots.arrange(chart.figure)
        return charts


def _curves(run: files.Run) -> Iterator[plots.Chart]:
    yield from _curve(run, 'reward', 'Reward', 'learning', _TREND)
    for name in run.constraints:
        yield from _cost_curve(run, name)
        title = f'Multiplier λ of {name}'
        yield from _curve(run, f'lambda/{name}', title, 'learning', '', smooth=False)
    title = 'KL divergence from the reference'
    yield from _curve(run, 'kl_divergence', title, 'learning', _TREND)
    title = 'Response length, tokens'
    yield from _curve(run, 'mean_generated_length', title, 'learning', _TREND)
    yield from _curve(run, 'loss', 'Loss of SFT and score models', 'models', _TREND)
    yield from _curve(run, 'accuracy', 'Accuracy on pairs', 'models', _TREND)


def _curve(
    run: files.Run,
    metric: str,
    title: str,
    section: str,
    caption: str,
    *,
    smooth: bool = True,
) -> Iterator[plots.Chart]:
    """One line a stage of train/<metric>, and marks of eval/<metric>."""
    figure, axes = plots.new_axes(title, 'step')
    for name, stage in run.stages.items():
        steps, values = plots.thin(*stage.series(f'train/{metric}'))
        _line(axes, name, steps, values, faint=smooth)
        if smooth:
            _line(axes, name, steps, plots.running_mean(values))
        measured = stage.series(f'eval/{metric}')
        _marks(axes, name, *measured)
        if measured[0] and _MARKS not in caption:
            caption += _MARKS
    if plots.legend(axes):
        yield plots.Chart(plots.slug(metric), section, caption, figure)


def _cost_curve(run: files.Run, constraint: str) -> Iterator[plots.Chart]:
    """The cost of a constraint beside the mean that moves λ, and the threshold."""
    figure, axes = plots.new_axes(f'Cost: {constraint}', 'step')
    thresholds: list[float] = []
    for name, stage in run.stages.items():
        costs = plots.thin(*stage.series(f'train/cost/{constraint}'))
        window = plots.thin(*stage.series(f'train/episode_cost/{constraint}'))
        _line(axes, name, *costs, faint=True)
        if window[0].size:
            _line(axes, name, *window)
        else:
            _line(axes, name, costs[0], plots.running_mean(costs[1]))
        _marks(axes, name, *stage.series(f'eval/cost/{constraint}'))
        thresholds += stage.series(f'train/threshold/{constraint}')[1][-1:]
    for threshold in sorted(set(thresholds)):
        plots.threshold(axes, threshold)
    if plots.legend(axes):
        caption = 'Thin: each step; thick: mean of the window, which moves λ.'
        yield plots.Chart(f'cost_{plots.slug(constraint)}', 'learning', caption, figure)


def _speeds(run: files.Run) -> Iterator[plots.Chart]:
    """Tokens per second where they were counted, else seconds per step."""
    learning = {name for name, stage in run.stages.items() if stage.is_policy}
    for section, names in (
        ('learning', learning),
        ('models', run.stages.keys() - learning),
    ):
        stages = {name: run.stages[name] for name in run.stages if name in names}
        key, title = files.speed(stages.values())
        figure, axes = plots.new_axes(title, 'step')
        for name, stage in stages.items():
            steps, values = plots.thin(*stage.pace(key))
            _line(axes, name, steps, values, faint=True)
            _line(axes, name, steps, plots.running_mean(values))
        if plots.legend(axes):
            caption = f'{_TREND} Without the first step, which compiles.'
            yield plots.Chart(f'speed_of_{section}', section, caption, figure)


def _distributions(run: files.Run) -> Iterator[plots.Chart]:
    by_cost = 'Held-out prompts, by the cost model; safe is < 0.'
    for key, title, caption in (
        ('reward', 'Reward of answers', 'Held-out prompts, by the reward model.'),
        *(
            (key, f'{name.capitalize()} of answers', by_cost)
            for key, name in summary.costs(run.results).items()
        ),
    ):
        found = {name: np.array(run.scores(name, key)) for name in run.answering}
        scores = {
            name: values[np.isfinite(values)]
            for name, values in found.items()
            if np.isfinite(values).any()
        }
        if not scores:
            continue
        figure, axes = plots.new_axes(title, key, 'answers')
        together = np.concatenate([*scores.values()])
        bins = np.histogram_bin_edges(together, bins=32).tolist()
        for name, values in scores.items():
            color, line, _ = style.look(name)
            if name == run.results.get('baseline'):
                axes.hist(values, bins, color=color, alpha=0.35)
            axes.hist(values, bins, histtype='step', color=color, ls=line, lw=1.6)
            axes.plot([], [], color=color, ls=line, label=summary.label(name))
        if key != 'reward':
            plots.safety(axes)
        plots.legend(axes)
        yield plots.Chart(
            f'{plots.slug(key)}_distribution', 'policies', caption, figure
        )


def _scatter(run: files.Run, key: str, cost: str) -> Iterator[plots.Chart]:
    figure, axes = plots.new_axes(f'Reward against {cost}', cost, 'reward')
    for name in run.answering:
        costs, rewards = (np.array(run.scores(name, x)) for x in (key, 'reward'))
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
    if plots.legend(axes):
        plots.safety(axes)
        caption = 'One point an answer, by the score models; large: the mean.'
        yield plots.Chart(
            f'reward_against_{plots.slug(key)}', 'policies', caption, figure
        )


def _elo(run: files.Run) -> Iterator[plots.Chart]:
    """The policies in the plane of both ratings."""
    elo = run.results.get('elo', {})
    if len(elo) < 2:
        return
    figure, axes = plots.new_axes('Elo', 'helpfulness', 'harmlessness')
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
    plots.legend(axes)
    caption = 'By rewards and costs of answers to the same prompts; 95% intervals.'
    yield plots.Chart('elo', 'policies', caption, figure)


def _line(
    axes: Axes,
    name: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    faint: bool = False,
) -> None:
    plots.line(axes, style.look(name), summary.label(name), steps, values, faint=faint)


def _marks(
    axes: Axes, name: str, steps: Sequence[float], values: Sequence[float]
) -> None:
    plots.marks(axes, style.look(name), steps, values)
