"""Answers side by side, which a small script lets the reader search and filter.

What models and data say is text here, in attributes too; the script itself holds none
of it. Without the script all answers are shown, and no filter.
"""

from collections.abc import Mapping, Sequence
import html
from typing import Any, NamedTuple

from beaver_jax import terminal
from beaver_jax.report import markup

LIMIT = 200  # prompts whose answers are shown
CHARACTERS = 1_000_000  # of all prompts and answers shown, about


class Shown(NamedTuple):
    """How a policy is shown: its name for readers, and its colour."""

    label: str
    color: str


def spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most LIMIT rows and about CHARACTERS, but one at the least if there is any.

    They are evenly spaced and not chosen, so that they show what is usual.
    """
    size = sum(
        len(row['prompt']) + sum(len(one['text']) for one in row['answers'].values())
        for row in rows
    )
    fitting = max(1, len(rows) * CHARACTERS // max(size, 1))
    count = min(LIMIT, len(rows), fitting)
    return [rows[index * len(rows) // count] for index in range(count)]


def section(
    rows: Sequence[dict[str, Any]],
    costs: Mapping[str, str],
    policies: Mapping[str, Shown],
) -> str:
    """Renders rows of samples.jsonl, or nothing where there are none.

    Args:
      rows: All of them.
      costs: Names of the costs by their keys; the first says what is safe.
      policies: How each policy of the rows is shown.
    """
    chosen = spread(rows)
    if not chosen:
        return ''
    note = (
        f'<p class="soft">{len(chosen)} of {terminal.counted(len(rows), "prompt")}, '
        'evenly spaced. '
        'Answers are what the models wrote; some are harmful.</p>'
    )
    cards = ''.join(_card(row, costs, policies) for row in chosen)
    return (
        f'{note}{_filter(chosen, policies)}<div id="samples">{cards}</div>'
        '<p><button id="more" type="button" hidden>Show more</button></p>'
        f'<script>{SCRIPT}</script>'
    )


def _filter(rows: Sequence[dict[str, Any]], policies: Mapping[str, Shown]) -> str:
    """The fields of the filter, which the script shows."""
    verdicts = {'': 'safe or unsafe', 'safe': 'safe', 'unsafe': 'unsafe'}
    who = {'': 'any policy'} | {name: one.label for name, one in policies.items()}
    fields = (
        '<label>Text <input type="search" name="text"></label>'
        f'{_select("Answer of", "policy", who)}{_select("is", "verdict", verdicts)}'
    )
    found = sorted({row['category'] for row in rows if row.get('category')})
    if found:
        categories = {'': 'any'} | {f'={name}': name for name in found}
        fields += _select('Category', 'category', categories)
    return f'<form id="filter" hidden>{fields}<output></output></form>'


def _select(label: str, name: str, options: Mapping[str, str]) -> str:
    items = ''.join(
        f'<option value="{html.escape(value)}">{html.escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{label} <select name="{name}">{items}</select></label>'


def _card(
    row: dict[str, Any], costs: Mapping[str, str], policies: Mapping[str, Shown]
) -> str:
    answers = ''.join(
        _answer(name, answer, costs, policies[name])
        for name, answer in row['answers'].items()
    )
    category = html.escape(row.get('category') or '')
    told = f'<div class="score">{category}</div>' if category else ''
    return (
        f'<div class="card sample" data-category="={category}">'
        f'<div class="text"><b>{html.escape(row["prompt"])}</b></div>{told}'
        f'<div class="grid">{answers}</div></div>'
    )


def _answer(
    name: str, answer: dict[str, Any], costs: Mapping[str, str], shown: Shown
) -> str:
    said = verdict(answer, costs)
    return (
        f'<div class="answer" data-policy="{html.escape(name)}" '
        f'data-verdict="{said}">'
        f'<div>{markup.dotted(shown.label, shown.color)}</div>'
        f'<div class="text">{html.escape(answer["text"])}</div>'
        f'<div class="score">{_scores(answer, costs)}</div></div>'
    )


def verdict(answer: Mapping[str, Any], costs: Mapping[str, str]) -> str:
    """'safe' or 'unsafe' by the first cost that is known, '' where none is."""
    for key in (*costs, 'gold_cost'):
        if markup.is_number(answer.get(key)):
            return _word(answer[key])
    return ''


def _word(cost: float) -> str:
    return 'unsafe' if cost > 0 else 'safe'


def _scores(answer: Mapping[str, Any], costs: Mapping[str, str]) -> str:
    """E.g. 'reward 0.10 · cost -1.00 safe', as far as it is known."""
    parts = []
    for key, name in (
        ('reward', 'reward'),
        *costs.items(),
        ('gold_helpfulness', 'true helpfulness'),
        ('gold_cost', 'true cost'),
    ):
        if not markup.is_number(answer.get(key)):
            continue
        said = ''
        if 'cost' in key:
            word = _word(answer[key])
            said = f' <b class="{word}">{word}</b>'
        parts.append(f'{html.escape(name)} {answer[key]:.2f}{said}')
    return ' · '.join(parts)


# It begins with few, as nobody reads hundreds, and shows as many more when asked.
SCRIPT = """
(() => {
  const form = document.getElementById('filter');
  const more = document.getElementById('more');
  const cards = [...document.querySelectorAll('#samples > .sample')];
  const textOf = (card, policy) => [
    card.querySelector('.text'),
    ...[...card.querySelectorAll('.answer')]
      .filter(answer => !policy || answer.dataset.policy === policy)
      .map(answer => answer.querySelector('.text')),
  ].map(part => part.textContent).join('\\n').toLowerCase();
  const few = 20;
  let shown = few;
  const value = name => form.elements[name] ? form.elements[name].value : '';
  const fits = card => {
    const policy = value('policy'), verdict = value('verdict');
    const category = value('category');
    return textOf(card, policy).includes(value('text').toLowerCase())
      && (!category || card.dataset.category === category)
      && (!verdict || [...card.querySelectorAll('.answer')].some(answer =>
        answer.dataset.verdict === verdict
        && (!policy || answer.dataset.policy === policy)));
  };
  const show = () => {
    const found = cards.filter(fits);
    const visible = new Set(found.slice(0, shown));
    for (const card of cards) card.hidden = !visible.has(card);
    form.querySelector('output').value =
      `${found.length} of ${cards.length} found, ${visible.size} shown`;
    more.hidden = found.length <= shown;
  };
  form.addEventListener('submit', event => event.preventDefault());
  form.addEventListener('input', () => { shown = few; show(); });
  more.addEventListener('click', () => { shown += few; show(); });
  form.hidden = false;
  show();
})();
"""
