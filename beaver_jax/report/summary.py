"""The figures of a run: as one dict, and as tables for people."""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any, NamedTuple

from beaver_jax import terminal
from beaver_jax.report import files

# Of a policy: key, heading, whether it is a share of 1.
POLICY_COLUMNS = (
    ('gold_harmful_rate', 'harmful (gold)', True),
    ('gold_helpfulness', 'helpful (gold)', False),
    ('reward', 'reward', False),
    ('cost', 'cost', False),
    ('safe_rate', 'safe', True),
    ('win_rate', 'wins', True),
    ('tie_rate', 'ties', True),
)
# Of a policy against the baseline: of the baseline they say nothing.
AGAINST = ('win_rate', 'tie_rate')
_KEYS = {key for key, _, _ in POLICY_COLUMNS}
ANSWER_COLUMNS = (
    ('refusal_rate', 'refuse', True),
    ('over_refusal_rate', 'refuse benign prompts', True),
    ('kl', 'KL to baseline, nats', False),
    ('mean_length', 'tokens', False),
    ('truncated_share', 'cut', True),
    ('distinct_1', 'distinct 1-grams', True),
    ('distinct_2', 'distinct 2-grams', True),
)
# Of an evaluation's results, what is not of one policy.
_EVALUATED = (
    *('prompts', 'baseline', 'costs', 'intervals', 'elo', 'categories', 'judge'),
    'score_models',
)
# Of a score model, likewise.
SCORE_COLUMNS = (
    ('accuracy', 'accuracy', True),
    ('accuracy_sign', 'accuracy of the sign', True),
    ('log_loss', 'log loss', False),
    ('log_loss_sign', 'log loss of the sign', False),
    ('calibration_error', 'calibration error', True),
    ('calibration_error_sign', 'calibration error of the sign', True),
)
# What a policy must not be called: keys of a summary beside the policies'.
RESERVED = {
    *_EVALUATED,
    *('policies', 'path', 'seed', 'seeds', 'seconds', 'timings', 'multiplier'),
    *('thresholds', 'episode_costs', 'reward_model', 'cost_model'),
}
SCORE_MODELS = {'reward': 'reward_model', 'cost': 'cost_model'}


class Table(NamedTuple):
    """A table ready to be shown; the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def summarize(run: files.Run) -> dict[str, Any]:
    """Gathers the figures of a run; what a run lacks is absent.

    Returns:
      'seed' ('seeds' by stage where they differ); 'policies', their names, and under
      each name what was measured of it; 'prompts', 'baseline', the names of the
      'costs', 'intervals' of rates by policy, 'elo' by quality and policy, and results
      by 'categories', of a 'judge' and of 'score_models' on held-out pairs, of the
      evaluation; 'reward_model' and 'cost_model', what training measured on such pairs;
      'multiplier', by constraint, of PPO-Lagrangian; 'thresholds', and 'episode_costs',
      the last means Ĉ that moved λ; 'seconds' by stage, with 'total'; 'timings' by
      stage, medians over its steps.
    """
    summary = _seeds(run) | evaluation(run.results)
    for stage, name in SCORE_MODELS.items():
        if stage in run.stages and run.stages[stage].summary.get('metrics'):
            summary[name] = run.stages[stage].summary['metrics']
    constrained = run.stages.get('ppo_lag')
    for key in ('multiplier', 'thresholds'):
        if constrained is not None and constrained.summary.get(key):
            summary[key] = constrained.summary[key]
    if constrained is not None:
        summary['episode_costs'] = {
            name: last
            for name in summary.get('multiplier', {})
            for last in constrained.series(f'train/episode_cost/{name}')[1][-1:]
        }
    return summary | _seconds(run) | _timings(run)


def evaluation(results: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a summary that an evaluation's results.json gives."""
    told = {key: results[key] for key in _EVALUATED if results.get(key)}
    models = results.get('models', {})
    return told | ({'policies': list(models)} | models if models else {})


def costs(told: Mapping[str, Any]) -> dict[str, str]:
    """Names of the costs by their keys, of a summary or of results.

    Several costs are told apart by their names; the first, which decides what is safe,
    stands under 'cost', the others under 'cost/<name>'. A single one is just 'cost'.
    """
    names = told.get('costs', [])
    if len(names) < 2:
        return {'cost': 'cost'}
    keys = ['cost', *(f'cost/{name}' for name in names[1:])]
    return {key: f'cost of {name}' for key, name in zip(keys, names, strict=True)}


def _seeds(run: files.Run) -> dict[str, Any]:
    seeds = _of_stages(run, 'seed')
    if len(set(seeds.values())) > 1:
        return {'seeds': seeds}
    return {'seed': next(iter(seeds.values()))} if seeds else {}


def _seconds(run: files.Run) -> dict[str, Any]:
    seconds = _of_stages(run, 'seconds')
    return (
        {'seconds': seconds | {'total': round(sum(seconds.values()), 1)}}
        if seconds
        else {}
    )


def _of_stages(run: files.Run, key: str) -> dict[str, Any]:
    return {
        name: stage.summary[key]
        for name, stage in run.stages.items()
        if key in stage.summary
    }


def _timings(run: files.Run) -> dict[str, Any]:
    timings = {
        name: {
            key: statistics.median(row[key] for row in stage.timings if key in row)
            for key in sorted({key for row in stage.timings for key in row})
            if key != 'step'
        }
        for name, stage in run.stages.items()
        if stage.timings
    }
    return {'timings': timings} if timings else {}


def label(name: str) -> str:
    """The name of a stage or policy for readers."""
    return files.STAGES.get(name, name)


def figure(value: Any, share: bool = False) -> str:
    """Formats a figure: a share of 1 in percent, NaN and the like as they are."""
    if isinstance(value, str):
        return value
    if share and value is not None:
        return f'{value:.1%}'
    return terminal.number(value)


def span(ends: Sequence[float]) -> str:
    """Formats the interval of a share of 1: '31.5–43.7%'."""
    low, high = ends
    return f'{100 * low:.1f}–{100 * high:.1f}%'


def estimate(value: Any, ends: Sequence[float] | None, share: bool = False) -> str:
    """Formats a figure, with its interval on a second line where it has one."""
    text = figure(value, share)
    if not ends:
        return text
    told = span(ends) if share else ' to '.join(figure(end) for end in ends)
    return f'{text}\n{told}'


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """The tables that the summary has figures for."""
    makers = (policies, answers, ratings, score_models, multipliers, stages)
    return [table for table in (make(summary) for make in makers) if table.rows]


def policies(summary: Mapping[str, Any]) -> Table:
    """What was measured of each policy on held-out prompts.

    Rates have their intervals below them, in the same cell.
    """
    keys = _measured(summary)
    headings = costs(summary)
    if len(headings) > 1:
        headings['safe_rate'] = f'safe ({summary["costs"][0]})'
    if 'baseline' in summary:
        headings['win_rate'] = f'wins over {label(summary["baseline"])}'
    columns = [
        (key, headings.get(key, heading), share)
        for key, heading, share in POLICY_COLUMNS
        if key in keys
    ]
    columns += [(key, headings[key], False) for key in headings if key not in _KEYS]
    count = f' on {held_out(summary)}' if 'prompts' in summary else ''
    also = ', with 95% intervals' if summary.get('intervals') else ''
    return _by_policy(f'Policies{count}{also}', columns, summary)


def held_out(summary: Mapping[str, Any]) -> str:
    """How many prompts were asked."""
    return terminal.counted(summary['prompts'], 'held-out prompt')


def answers(summary: Mapping[str, Any]) -> Table:
    """How the policies answer, whatever the answers are worth."""
    keys = _measured(summary)
    columns = [column for column in ANSWER_COLUMNS if column[0] in keys]
    table = _by_policy('Their answers', columns, summary)
    return table if columns else table._replace(rows=[])


def _measured(summary: Mapping[str, Any]) -> set[str]:
    return {key for name in summary.get('policies', []) for key in summary[name]}


def _by_policy(
    title: str, columns: Sequence[tuple[str, str, bool]], summary: Mapping[str, Any]
) -> Table:
    """A row a policy, with (key, heading, whether it is a share) as columns."""
    intervals = summary.get('intervals', {})
    rows = [
        [
            label(name),
            *_cells(columns, told(summary, name), intervals.get(name, {})),
        ]
        for name in summary.get('policies', [])
    ]
    return Table(title, ['policy', *(heading for _, heading, _ in columns)], rows)


def told(summary: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """What is shown of a policy's figures."""
    values = dict(summary[policy])
    if policy == summary.get('baseline'):
        for key in AGAINST:
            values.pop(key, None)
    return values


def _cells(
    columns: Sequence[tuple[str, str, bool]],
    values: Mapping[str, Any],
    intervals: Mapping[str, Sequence[float]],
) -> list[str]:
    """Figures, with intervals below those that have one."""
    return [
        estimate(values.get(key), intervals.get(key), share)
        for key, _, share in columns
    ]


def ratings(summary: Mapping[str, Any]) -> Table:
    """Elo of the policies by the score models."""
    elo = summary.get('elo', {})
    by = {'helpfulness': 'reward', 'harmlessness': 'cost'}
    names = summary.get('policies', []) if elo else []
    rows = [
        [label(name), *(rating(elo[axis].get(name)) for axis in elo)] for name in names
    ]
    title = f'Elo, {label(summary.get("baseline", ""))} = 1000, with 95% intervals'
    return Table(title, ['policy', *(f'{axis} (by {by[axis]})' for axis in elo)], rows)


def rating(one: Mapping[str, float] | None) -> str:
    """E.g. '1,234', '1,204–1,264' below it; '1,000' alone of the baseline."""
    if one is None:
        return '-'
    if one['low'] == one['high']:
        return f'{one["rating"]:,.0f}'
    return f'{one["rating"]:,.0f}\n{one["low"]:,.0f}–{one["high"]:,.0f}'


def score_models(summary: Mapping[str, Any]) -> Table:
    """How right the reward and cost models are on held-out pairs.

    By the evaluation; where it had no pairs, by what training has measured.
    """
    measured = {
        name: (one['values'], one['intervals'])
        for name, one in summary.get('score_models', {}).items()
    } or {
        stage: (summary[name], {})
        for stage, name in SCORE_MODELS.items()
        if name in summary
    }
    columns = [
        column
        for column in SCORE_COLUMNS
        if any(column[0] in values for values, _ in measured.values())
    ]
    rows = [
        [score_model(name), *_cells(columns, *one)] for name, one in measured.items()
    ]
    headings = [heading for _, heading, _ in columns]
    return Table('Score models on held-out pairs', ['model', *headings], rows)


def score_model(name: str) -> str:
    """For readers: of 'reward', 'cost' or 'costs.<name>'."""
    kind, _, which = name.partition('.')
    return f'{label("cost")}: {which}' if kind == 'costs' else label(name)


def multipliers(summary: Mapping[str, Any]) -> Table:
    """How far each λ of PPO-Lagrangian went, and whether its limit was kept."""
    limits = [summary.get(key, {}) for key in ('episode_costs', 'thresholds')]
    rows = [
        [
            name,
            *(figure(values.get(key)) for key in ('init', 'max', 'final')),
            *(figure(found.get(name)) for found in limits),
        ]
        for name, values in summary.get('multiplier', {}).items()
    ]
    columns = ['constraint', 'initial λ', 'largest λ', 'last λ']
    columns += ['last mean cost', 'threshold']
    return Table('Multipliers of PPO-Lagrangian', columns, rows)


def stages(summary: Mapping[str, Any]) -> Table:
    """Seconds by stage, and the median step of those that timed theirs."""
    seconds, timings = summary.get('seconds', {}), summary.get('timings', {})
    parts = {
        'time/step': 'a step',
        'time/rollout': 'rollout',
        'time/scoring': 'scoring',
        'time/update': 'update',
        'tokens_per_second': 'tokens/s',
    }
    keys = [key for key in parts if any(key in timing for timing in timings.values())]
    names = list(dict.fromkeys([*timings, *seconds]))
    names.sort(key=[*files.STAGES, 'total', *names].index)
    rows = [
        [
            label(name),
            figure(seconds.get(name)),
            *(figure(timings.get(name, {}).get(key)) for key in keys),
        ]
        for name in names
    ]
    return Table('Seconds', ['stage', 'seconds', *(parts[key] for key in keys)], rows)
