"""Parts of pages: the document, sections, tables and charts, as HTML."""

from collections.abc import Iterable, Sequence
import html
import math
from typing import Any

from beaver_jax.report import plots
from beaver_jax.report import style
from beaver_jax.report import summary as summaries

# By which a page is known as a report, which may be written again.
GENERATOR = '<meta name="generator" content="beaver_jax.report">'


def document(title: str, subtitle: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page.

    Args:
      title: Its name, as text.
      subtitle: What stands below, as text.
      sections: Headings, which may be empty, and what they are of, as HTML; those
        without content are left out.
    """
    name = html.escape(title)
    body = ''.join(
        f'<section>{f"<h2>{heading}</h2>" if heading else ""}{content}</section>\n'
        for heading, content in sections
        if content
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'{GENERATOR}\n'
        f'<title>{name} · Safe RLHF</title>\n<style>{style.SHEET}</style>\n</head>\n'
        f'<body>\n<h1>{name}</h1>\n<p class="soft">{html.escape(subtitle)}</p>\n'
        f'{body}</body>\n</html>\n'
    )


def table(content: summaries.Table, kind: str = '') -> str:
    """A table that scrolls where it is too wide, or nothing if it has no rows."""
    if not content.rows:
        return ''
    head = ''.join(f'<th>{html.escape(column)}</th>' for column in content.columns)
    rows = ''.join(
        f'<tr>{"".join(f"<td>{_cell(cell)}</td>" for cell in row)}</tr>'
        for row in content.rows
    )
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    """A cell; what stands below its first line is an interval, and softer."""
    first, *below = html.escape(text).split('\n')
    return first + ''.join(f'<br><span class="soft">{line}</span>' for line in below)


def titled(tables: Sequence[summaries.Table], kind: str = '') -> str:
    """Tables below their titles, those that have rows."""
    return ''.join(
        f'<h3>{html.escape(one.title)}</h3>{table(one, kind)}'
        for one in tables
        if one.rows
    )


def charts(drawn: Sequence[plots.Chart], section: str, kind: str = '') -> str:
    """The charts of a section, side by side."""
    figures = ''.join(
        f'<figure class="card">{plots.svg(chart)}'
        f'<figcaption>{html.escape(chart.caption)}</figcaption></figure>'
        for chart in drawn
        if chart.section == section
    )
    return f'<div class="grid {kind}">{figures}</div>' if figures else ''


def dotted(name: str, color: str) -> str:
    """A name behind a dot of its colour."""
    return f'<i class="dot" style="background:{color}"></i>{html.escape(name)}'


def is_number(value: Any) -> bool:
    """Whether there is a figure to show."""
    return isinstance(value, int | float) and math.isfinite(value)
