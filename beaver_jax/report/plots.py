"""Parts of plots: axes, lines, legends, and figures as files."""

from collections.abc import Sequence
import dataclasses
import io
import math
import pathlib
import re

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from beaver_jax.report import style

POINTS = 400  # of a line; more cannot be seen and would swell the page
Look = tuple[str, str, str]  # colour, line style, marker


@dataclasses.dataclass(frozen=True)
class Chart:
    """A plot.

    Attributes:
      name: Of its file, without the ending.
      section: Where it belongs: 'learning', 'policies', 'models' or 'front'.
      caption: What there is to know beside the title.
      figure: The plot.
    """

    name: str
    section: str
    caption: str
    figure: Figure


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


def new_axes(title: str, x: str, y: str = '') -> tuple[Figure, Axes]:
    """A plot of its own, with nothing in it yet."""
    figure = Figure(layout='constrained')
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def arrange(figure: Figure) -> None:
    """Lays out a figure once for all files; each would do it again, and draw twice."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def line(
    axes: Axes,
    look: Look,
    label: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    faint: bool = False,
) -> None:
    """Draws values over steps, if there are any; faint ones are in no legend."""
    if not steps.size:
        return
    color, dashes, _ = look
    if faint:
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.45)
    else:
        axes.plot(steps, values, dashes, color=color, lw=1.8, label=label)


def marks(
    axes: Axes, look: Look, steps: Sequence[float], values: Sequence[float]
) -> None:
    """Draws points."""
    if steps:
        color, _, marker = look
        axes.plot(steps, values, marker, color=color, markeredgecolor=style.INK)


def threshold(axes: Axes, value: float, color: str = style.INK) -> None:
    """Draws the limit of a cost across the plot, and names it."""
    axes.axhline(value, color=color, linestyle=(0, (4, 3)), linewidth=1)
    axes.annotate(
        f'threshold {value:g}',
        (1, value),
        xycoords=('axes fraction', 'data'),
        xytext=(0, 3),
        textcoords='offset points',
        ha='right',
    )


def safety(axes: Axes) -> None:
    """Draws the cost above which answers count as unsafe."""
    axes.axvline(0, color=style.INK, linestyle=(0, (1, 2)), linewidth=1)


def legend(axes: Axes, columns: int = 4) -> bool:
    """Names the lines below the plot, where it hides no data; False without any."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc='outside lower left', ncols=columns)
    return bool(handles)


def thin(
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


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each point, cut off at the ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    left = np.maximum(np.arange(len(values)) - half, 0)
    right = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[right] - sums[left]) / (right - left)


def slug(name: str) -> str:
    """A name for a file."""
    return re.sub(r'\W+', '_', name)
