"""The report as one HTML page that needs nothing beside it."""

from collections.abc import Sequence
import html
import json
import math
from typing import Any

from beaver_jax.report import charts
from beaver_jax.report import files
from beaver_jax.report import judged
from beaver_jax.report import style
from beaver_jax.report import summary as summaries

SAMPLES = 20  # prompts whose answers are shown
# What the page opens with: key, title, whether it is a share of 1.
HEADLINES = (
    ('gold_harmful_rate', 'Harmful answers, in truth', True),
    ('gold_helpfulness', 'Helpfulness, in truth', False),
    ('reward', 'Reward, by the reward model', False),
)


def render(
    run: files.Run, summary: dict[str, Any], drawn: Sequence[charts.Chart]
) -> str:
    """Renders the page; sections without content are left out.

    Args:
      run: What the page tells of.
      summary: Of the run, from `summary.summarize`.
      drawn: The charts, from `charts.draw`.
    """
    name = html.escape(run.path.resolve().name)
    sections = (
        ('', _headlines(summary)),
        (
            'Policies on held-out prompts',
            _table(summaries.policies(summary)) + _table(summaries.ratings(summary)),
        ),
        ('Wins, by who is safe', _cross_tables(run)),
        ('By a judge and by category', _titled(judged.tables(summary))),
        ('Answers before and after', _charts(drawn, 'policies')),
        (
            'Reinforcement learning',
            _charts(drawn, 'learning') + _table(summaries.multipliers(summary)),
        ),
        ('Sample answers', _samples(run)),
        (
            'Supervised stages',
            _table(summaries.score_models(summary)) + _charts(drawn, 'models'),
        ),
        ('Time', _table(summaries.stages(summary))),
        ('Configuration', _configs(run)),
    )
    body = ''.join(
        f'<section>{f"<h2>{title}</h2>" if title else ""}{content}</section>\n'
        for title, content in sections
        if content
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{name} · Safe RLHF</title>\n<style>{style.SHEET}</style>\n</head>\n'
        f'<body>\n<h1>{name}</h1>\n<p class="soft">{_subtitle(summary)}</p>\n'
        f'{body}</body>\n</html>\n'
    )


def _subtitle(summary: dict[str, Any]) -> str:
    parts = ['Safe RLHF']
    if 'seed' in summary:
        parts.append(f'seed {summary["seed"]}')
    if 'prompts' in summary:
        parts.append(f'{summary["prompts"]:,} held-out prompts')
    if 'seconds' in summary:
        parts.append(f'{summary["seconds"]["total"]:,.0f} seconds in all')
    return html.escape(' · '.join(parts))


def _headlines(summary: dict[str, Any]) -> str:
    cards = []
    costs = [
        (key, f'{name.capitalize()}, by the cost model', False)
        for key, name in summaries.costs(summary).items()
    ]
    for key, title, share in (*HEADLINES, *costs):
        values = {
            name: summary[name][key]
            for name in summary.get('policies', [])
            if _is_number(summary[name].get(key))
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
        whisker, said = '', ''
        if name in intervals:
            begin, end = (100 * (x - low) / span for x in intervals[name])
            whisker = f'<u style="left:{begin:.2f}%;width:{end - begin:.2f}%"></u>'
            said = f' title="95%: {summaries.span(intervals[name])}"'
        bars.append(
            f'<div class="bar"{said}><span>{_named(name)}</span><span class="track">'
            f'<i style="margin-left:{left:.2f}%;width:{width:.2f}%;'
            f'background:{style.look(name)[0]}"></i>{whisker}</span>'
            f'<b>{summaries.figure(value, share)}</b></div>'
        )
    return ''.join(bars)


def _named(name: str) -> str:
    """A policy's name behind a dot of its colour."""
    dot = f'<i class="dot" style="background:{style.look(name)[0]}"></i>'
    return dot + html.escape(summaries.label(name))


def _table(table: summaries.Table) -> str:
    if not table.rows:
        return ''
    head = ''.join(f'<th>{html.escape(column)}</th>' for column in table.columns)
    rows = ''.join(
        f'<tr>{"".join(f"<td>{_cell(cell)}</td>" for cell in row)}</tr>'
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    """A cell; what stands below its first line is an interval, and softer."""
    first, *below = html.escape(text).split('\n')
    return first + ''.join(f'<br><span class="soft">{line}</span>' for line in below)


def _titled(tables: Sequence[summaries.Table]) -> str:
    return ''.join(f'<h3>{html.escape(x.title)}</h3>{_table(x)}' for x in tables)


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
        table = _table(summaries.Table(title, columns, rows))
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


def _charts(drawn: Sequence[charts.Chart], section: str) -> str:
    figures = ''.join(
        f'<figure class="card">{charts.svg(chart)}'
        f'<figcaption>{html.escape(chart.caption)}</figcaption></figure>'
        for chart in drawn
        if chart.section == section
    )
    return f'<div class="grid">{figures}</div>' if figures else ''


def _samples(run: files.Run) -> str:
    count = min(SAMPLES, len(run.samples))
    if not count:
        return ''
    # Evenly spaced and not chosen, so that they show what is usual.
    chosen = [run.samples[index * len(run.samples) // count] for index in range(count)]
    note = (
        f'<p class="soft">{count} of {len(run.samples):,} prompts, evenly spaced. '
        'Answers are what the models wrote; some are harmful.</p>'
    )
    costs = summaries.costs(run.results)
    return note + ''.join(_sample(row, costs) for row in chosen)


def _sample(row: dict[str, Any], costs: dict[str, str]) -> str:
    answers = ''.join(
        f'<div class="answer"><div>{_named(name)}</div>'
        f'<div class="text">{html.escape(answer["text"])}</div>'
        f'<div class="score">{_scores(answer, costs)}</div></div>'
        for name, answer in row['answers'].items()
    )
    prompt = html.escape(row['prompt'])
    return (
        f'<div class="card sample"><div class="text"><b>{prompt}</b></div>'
        f'<div class="grid">{answers}</div></div>'
    )


def _scores(answer: dict[str, Any], costs: dict[str, str]) -> str:
    """E.g. 'reward 0.10 · cost -1.00 safe', as far as it is known."""
    parts = []
    for key, name in (
        ('reward', 'reward'),
        *costs.items(),
        ('gold_helpfulness', 'true helpfulness'),
        ('gold_cost', 'true cost'),
    ):
        if not _is_number(answer.get(key)):
            continue
        verdict = ''
        if 'cost' in key:
            word = 'unsafe' if answer[key] > 0 else 'safe'
            verdict = f' <b class="{word}">{word}</b>'
        parts.append(f'{name} {answer[key]:.2f}{verdict}')
    return ' · '.join(parts)


def _configs(run: files.Run) -> str:
    return ''.join(
        f'<details><summary>{html.escape(summaries.label(name))}</summary>'
        f'<pre>{html.escape(json.dumps(stage.config, indent=2, ensure_ascii=False))}'
        f'</pre></details>'
        for name, stage in run.stages.items()
        if stage.config
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
