"""Tables of what a judge said, and of results by category."""

from collections.abc import Mapping
from typing import Any

from beaver_jax.report import summary as summaries

# Of a category: key, heading, whether it is a share of 1.
_COLUMNS = (
    ('reward', 'reward', False),
    ('cost', 'cost', False),
    ('safe_rate', 'safe', True),
    ('win_rate', 'wins by reward', True),
)


def tables(summary: Mapping[str, Any]) -> list[summaries.Table]:
    """The tables that the summary has figures for."""
    return [*judgements(summary), *categories(summary)]


def judgements(summary: Mapping[str, Any]) -> list[summaries.Table]:
    """How the policies compare with the baseline by a judge, a table a dimension."""
    judge = summary.get('judge', {})
    baseline = summaries.label(summary.get('baseline', ''))
    columns = ['policy', 'wins', 'ties', 'losses', 'flipped', 'failed']
    return [
        summaries.Table(
            f'{dimension.capitalize()} against {baseline} by {judge["model"]}, '
            'both orders, with 95% intervals',
            [*columns, *(['Elo'] if told['elo'] else [])],
            [_judged(name, one, told['elo']) for name, one in told['models'].items()],
        )
        for dimension, told in judge.get('dimensions', {}).items()
        if told['models']
    ]


def _judged(name: str, one: Mapping[str, Any], elo: Mapping[str, Any]) -> list[str]:
    """A row; shares are of the comparisons that have not failed."""
    decided = one['wins'] + one['ties'] + one['losses']
    shares = [
        summaries.figure(one[key] / decided if decided else None, share=True)
        for key in ('wins', 'ties', 'losses', 'flipped')
    ]
    if decided:
        shares[0] += f'\n{summaries.span(one["win_interval"])}'
    rating = [summaries.rating(elo.get(name))] if elo else []
    return [summaries.label(name), *shares, summaries.figure(one['failed']), *rating]


def categories(summary: Mapping[str, Any]) -> list[summaries.Table]:
    """What was measured by category of the prompts, at most one table."""
    found = summary.get('categories', {})
    if not found:
        return []
    keys = {
        key for one in found.values() for row in one['models'].values() for key in row
    }
    columns = [column for column in _COLUMNS if column[0] in keys]
    judge = summary.get('judge', {})
    axes = list(judge.get('dimensions', {}))
    rows = []
    for category, one in found.items():
        judged = judge.get('categories', {}).get(category, {})
        for n, (name, values) in enumerate(one['models'].items()):
            rates = [judged.get(axis, {}).get(name, {}) for axis in axes]
            ends = one.get('intervals', {}).get(name, {})
            if name == summary.get('baseline'):  # against itself
                values = {k: x for k, x in values.items() if k not in summaries.AGAINST}
            rows.append(
                [
                    '' if n else category or '(none)',
                    summaries.label(name),
                    summaries.figure(one['prompts']),
                    *(
                        summaries.estimate(values.get(key), ends.get(key), share)
                        for key, _, share in columns
                    ),
                    *(
                        summaries.estimate(
                            x.get('win_rate'), x.get('win_interval'), share=True
                        )
                        for x in rates
                    ),
                ]
            )
    headings = ['category', 'policy', 'prompts', *(name for _, name, _ in columns)]
    headings += [f'{axis}: wins by {judge["model"]}' for axis in axes]
    ends = any(one.get('intervals') for one in found.values())
    title = 'By category' + (', with 95% intervals' if ends else '')
    return [summaries.Table(title, headings, rows)]
