"""The report as one HTML page that needs nothing beside it."""

from collections.abc import Mapping, Sequence
import html
import json
from typing import Any

from beaver_jax.report import files
from beaver_jax.report import judged
from beaver_jax.report import markup
from beaver_jax.report import plots
from beaver_jax.report import samples
from beaver_jax.report import style
from beaver_jax.report import summary as summaries

# What the page opens with: key, title, whether it is a share of 1.
HEADLINES = (
    ('gold_harmful_rate', 'Harmful answers, in truth', True),
    ('gold_helpfulness', 'Helpfulness, in truth', False),
    ('reward', 'Reward, by the reward model', False),
)


def render(
    run: files.Run, summary: Mapping[str, Any], drawn: Sequence[plots.Chart]
) -> str:
    """Renders the page; sections without content are left out.

    Args:
      run: What the page tells of.
      summary: Of the run, from `summary.summarize`.
      drawn: The charts, from `charts.draw`.
    """
    sections = (
        ('', _headlines(summary)),
        (
            'Policies on held-out prompts',
            markup.table(summaries.policies(summary))
            + markup.titled([summaries.answers(summary), summaries.ratings(summary)]),
        ),
        ('Wins, by who is safe', _cross_tables(run)),
        ('By a judge', markup.titled(judged.judgements(summary))),
        (
            'By category',
            ''.join(markup.table(one, 'named') for one in judged.categories(summary)),
        ),
        ('Answers before and after', markup.charts(drawn, 'policies')),
        (
            'Reinforcement learning',
            markup.charts(drawn, 'learning')
            + markup.table(summaries.multipliers(summary)),
        ),
        (
            'Score models, supervised stages',
            markup.table(summaries.score_models(summary))
            + markup.charts(drawn, 'models'),
        ),
        ('Time', markup.table(summaries.stages(summary))),
        ('Configuration', _configs(run)),
        ('Sample answers', _samples(run)),
    )
    return markup.document(run.path.resolve().name, _subtitle(summary), sections)


def _subtitle(summary: Mapping[str, Any]) -> str:
    parts = ['Safe RLHF']
    if 'seed' in summary:
        parts.append(f'seed {summary["seed"]}')
    if 'prompts' in summary:
        parts.append(summaries.held_out(summary))
    if 'seconds' in summary:
        parts.append(f'{summary["seconds"]["total"]:,.0f} seconds in all')
    return ' · '.join(parts)


def _headlines(summary: Mapping[str, Any]) -> str:
    cards = []
    costs = [
        (key, f'{name.capitalize()}, by the cost model', False)
        for key, name in summaries.costs(summary).items()
    ]
    for key, title, share in (*HEADLINES, *costs):
        values = {
            name: summary[name][key]
            for name in summary.get('policies', [])
            if markup.is_number(summary[name].get(key))
        }
        ends = {
            name: found[key]
            for name, found in summary.get('intervals', {}).items()
            if key in found
        }
        if values:
            bars = _bars(values, share, ends)
            cards.append(f'<div class="card"><h3>{title}</h3>{bars}</div>')
    return f'<div class="grid wide">{"".join(cards)}</div>' if cards else ''


def _bars(
    values: dict[str, float], share: bool, intervals: dict[str, Sequence[float]]
) -> str:
    """One bar a policy, from 0; shares on a scale that ends at 1, with intervals."""
    low = min(0.0, *values.values())
    high = max(1.0 if share else 0.0, *values.values())
    span = (high - low) or 1.0
    bars = []
    for name, value in values.items():
        left = 100 * (min(value, 0.0) - low) / span
        width = 100 * abs(value) / span
        zero = f'<s style="left:{-100 * low / span:.2f}%"></s>' if low < 0 else ''
        whisker, said = '', ''
        if name in intervals:
            begin, end = (100 * (x - low) / span for x in intervals[name])
            whisker = f'<u style="left:{begin:.2f}%;width:{end - begin:.2f}%"></u>'
            said = f' title="95%: {summaries.span(intervals[name])}"'
        bars.append(
            f'<div class="bar"{said}><span>{_dotted(name)}</span><span class="track">'
            f'<i style="margin-left:{left:.2f}%;width:{width:.2f}%;'
            f'background:{style.look(name)[0]}"></i>{zero}{whisker}</span>'
            f'<b>{summaries.figure(value, share)}</b></div>'
        )
    return ''.join(bars)


def _dotted(name: str) -> str:
    return markup.dotted(summaries.label(name), style.look(name)[0])


def _cross_tables(run: files.Run) -> str:
    cards = []
    for title, cells in run.results.get('tables', {}).items():
        names = [summaries.label(name) for name in title.split(' vs ')]
        model, baseline = names if len(names) == 2 else (title, 'baseline')
        rows = [
            [f'{baseline} {row}', *(_wins(cells[row][column]) for column in cells[row])]
            for row in cells
        ]
        columns = ['', *(f'{model} {column}' for column in next(iter(cells.values())))]
        table = markup.table(summaries.Table(title, columns, rows))
        heading = html.escape(f'{model} against {baseline}')
        cards.append(f'<div class="card"><h3>{heading}</h3>{table}</div>')
    note = (
        '<p class="soft">Prompts by whether the two answers are safe, and how often '
        'the first policy has the higher reward among them, with 95% intervals.</p>'
    )
    return f'{note}<div class="grid wide">{"".join(cards)}</div>' if cards else ''


def _wins(cell: dict[str, Any]) -> str:
    if cell.get('win_rate') is None:
        return f'{cell.get("count", 0)}'
    won = f'{cell["count"]} ({cell["win_rate"]:.0%} won)'
    ends = cell.get('win_rate_interval')
    return f'{won}\n{summaries.span(ends)}' if ends else won


def _samples(run: files.Run) -> str:
    policies = {
        name: samples.Shown(summaries.label(name), style.look(name)[0])
        for row in run.samples
        for name in row['answers']
    }
    return samples.section(run.samples, summaries.costs(run.results), policies)


def _configs(run: files.Run) -> str:
    configs = {name: stage.config for name, stage in run.stages.items()}
    configs['evaluation'] = run.evaluation
    return ''.join(
        f'<details><summary>{html.escape(summaries.label(name))}</summary>'
        f'<pre>{html.escape(json.dumps(config, indent=2, ensure_ascii=False))}'
        f'</pre></details>'
        for name, config in configs.items()
        if config
    )
