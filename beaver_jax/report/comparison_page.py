"""The comparison of several runs as one HTML page that needs nothing beside it."""

from collections.abc import Mapping, Sequence
import html
from typing import Any

from beaver_jax.report import comparison
from beaver_jax.report import differences
from beaver_jax.report import markup
from beaver_jax.report import plots
from beaver_jax.report import samples
from beaver_jax.report import style

_CONFIGS = (
    '<p class="soft">Keys whose values differ. RUN is the directory of the run '
    'itself.</p>'
)
_METHOD = f'<p class="soft">{comparison.INTERVALS} {comparison.FRONT}</p>'


def render(
    runs: comparison.Runs, summary: Mapping[str, Any], drawn: Sequence[plots.Chart]
) -> str:
    """Renders the page; sections without content are left out.

    Args:
      runs: What the page tells of, by name.
      summary: Of them, from `comparison.summarize`.
      drawn: The charts, from `overlays.draw`.
    """
    policies = comparison.policies(summary)
    sections = (
        ('', _runs(runs, summary)),
        ('Policies', markup.titled(policies) + (_METHOD if policies else '')),
        ('Helpfulness against cost', markup.charts(drawn, 'front', 'single')),
        (
            'Reinforcement learning',
            markup.charts(drawn, 'learning')
            + markup.table(comparison.multipliers(summary)),
        ),
        ('Time', markup.table(comparison.stages(summary))),
        ('Differences of configuration', _differences(summary)),
        ('Sample answers', _samples(runs, summary)),
    )
    return markup.document(', '.join(runs), 'Safe RLHF · a comparison', sections)


def _runs(runs: comparison.Runs, summary: Mapping[str, Any]) -> str:
    """Which runs these are, and what to know before they are compared."""
    items = ''.join(
        f'<li>{markup.dotted(name, _color(runs, name))} '
        f'<span class="soft">{html.escape(summary["runs"][name]["path"])}</span></li>'
        for name in runs
    )
    notes = ''.join(f'<p>{html.escape(note)}</p>' for note in summary['notes'])
    said = f'<div class="card note">{notes}</div>' if notes else ''
    return f'<ul class="runs">{items}</ul>{said}'


def _color(runs: comparison.Runs, name: str) -> str:
    return style.run_look([*runs].index(name))[0]


def _differences(summary: Mapping[str, Any]) -> str:
    table = markup.table(comparison.differences_of_configs(summary), 'values')
    return _CONFIGS + table if table else ''


def _samples(runs: comparison.Runs, summary: Mapping[str, Any]) -> str:
    """The answers of all runs to each prompt, if they were asked the same."""
    asked = {name: run for name, run in runs.items() if run.samples}
    if not differences.same_prompts([*asked.values()]):
        return ''
    shown: dict[str, samples.Shown] = {}
    rows: list[dict[str, Any]] = []
    for name, run in asked.items():
        for index, row in enumerate(run.samples):
            if index == len(rows):
                rows.append(row | {'answers': {}})
            for policy, answer in row['answers'].items():
                label = comparison.label(name, policy)
                shown[label] = samples.Shown(label, _color(runs, name))
                rows[index]['answers'][label] = answer
    return samples.section(rows, summary['costs'], shown)
