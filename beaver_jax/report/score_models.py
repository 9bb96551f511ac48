"""Plots of score models on held-out pairs: calibration, and scores by class."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from beaver_jax.report import files
from beaver_jax.report import plots
from beaver_jax.report import style
from beaver_jax.report import summary

CALIBRATED = (
    'How often it is so, by the probability that the model gives it: that the likelier '
    'order is right, or (sign) that a response is unsafe. The larger a mark, the more '
    'there are. Dotted: what is said is true.'
)


def draw(run: files.Run) -> Iterator[plots.Chart]:
    """The plots of every score model that the evaluation had pairs for."""
    measured = run.results.get('score_models', {})
    if measured:
        yield _calibration(measured)
    for name, one in measured.items():
        if one['distributions']['classes']:
            yield _distribution(name, one['distributions'])


def _calibration(measured: Mapping[str, Any]) -> plots.Chart:
    figure, axes = plots.new_axes('Calibration on pairs', 'said', 'found')
    axes.plot([0, 1], [0, 1], color=style.INK, linestyle=(0, (1, 2)), linewidth=1)
    for name, one in measured.items():
        color, _, marker = _look(name)
        for kind, bins in one['calibration'].items():
            said, found = ([x[key] for x in bins] for key in ('said', 'found'))
            label = summary.score_model(name) + (', sign' if kind == 'sign' else '')
            line = '--' if kind == 'sign' else '-'
            axes.plot(said, found, line, color=color, lw=1, label=label)
            counts = np.array([x['count'] for x in bins])
            areas = 4 + 90 * counts / counts.sum()
            axes.scatter(said, found, areas, color=color, marker=marker)
    plots.legend(axes, columns=2)
    return plots.Chart('calibration', 'models', CALIBRATED, figure)


def _distribution(name: str, told: Mapping[str, Any]) -> plots.Chart:
    """Shares of the scores of each class."""
    title = f'{summary.score_model(name)}, by label'
    figure, axes = plots.new_axes(title, 'score', 'share')
    edges = np.array(told['edges'])
    for (label, one), line in zip(told['classes'].items(), ('-', '--'), strict=False):
        shares = np.array(one['histogram']) / one['count']
        axes.stairs(shares, edges, color=_look(name)[0], ls=line, lw=1.6, label=label)
    if 'unsafe' in told['classes']:
        plots.safety(axes)
    plots.legend(axes)
    caption = 'Scores of held-out responses by what people said of them.'
    return plots.Chart(f'{plots.slug(name)}_by_label', 'models', caption, figure)


def _look(name: str) -> plots.Look:
    return style.look('cost' if name.startswith('costs.') else name)
