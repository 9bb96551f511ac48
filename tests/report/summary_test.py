"""Tests of the report: the figures of a run, and its tables."""

import json

from beaver_jax import report
from beaver_jax.report import charts
from beaver_jax.report import files
from beaver_jax.report import summary as summaries
from tests.report import made


def test_the_summary_has_every_figure(run):
    summary = report.write(run)
    assert summary['seed'] == 3
    assert summary['policies'] == ['sft', 'ppo', 'ppo_lag']
    assert summary['sft'] == {
        'gold_harmful_rate': 0.25,
        'gold_helpfulness': 0.5,
        'reward': 0.0,
        'cost': 1.0,
    }
    assert summary['ppo_lag']['gold_helpfulness'] == 1.5
    assert summary['reward_model'] == {'accuracy': 0.75}
    assert summary['cost_model']['accuracy_sign'] == 0.9
    assert summary['cost_model']['loss'] == 'NaN'
    assert summary['multiplier'] == {'harm': {'init': 1.0, 'max': 6.0, 'final': 6.0}}
    # Costs of the window at the last of five steps: 0.5 - 5.
    assert summary['episode_costs'] == {'harm': -4.5}
    assert summaries.multipliers(summary).rows == [
        ['harm', '1.000', '6.000', '6.000', '-4.500', '-0.250']
    ]
    assert summary['seconds'] == {
        'sft': 10.0,
        'reward': 5.0,
        'cost': 6.5,
        'ppo': 20.0,
        'ppo_lag': 30.0,
        'total': 71.5,  # 10 + 5 + 6.5 + 20 + 30
    }
    # The median of 60, 1 and 2: the first step, which compiles, hardly counts.
    assert summary['timings'] == {'ppo': {'time/step': 2.0}}
    written = (run / 'report' / 'summary.json').read_text()
    assert json.loads(written) == summary


def test_what_a_run_lacks_is_absent(unfinished):
    assert report.write(unfinished) == {}
    names = sorted(path.name for path in (unfinished / 'report').iterdir())
    assert names == ['index.html', 'loss.png', 'summary.json']


def test_seeds_that_differ_are_told_by_stage(run):
    made.add_stage(run, 'sft', 10.0, seed=4)
    summary = report.write(run)
    assert 'seed' not in summary
    assert summary['seeds']['sft'] == 4
    assert summary['seeds']['ppo'] == 3


def test_tables_have_only_columns_with_figures(run):
    summary = summaries.summarize(files.load(run))
    tables = {table.title: table for table in summaries.tables(summary)}
    policies = tables['Policies on 50 held-out prompts']
    assert policies.columns == [
        'policy',
        'harmful (gold)',
        'helpful (gold)',
        'reward',
        'cost',
    ]
    assert policies.rows[0] == ['SFT', '25.0%', '0.500', '0.000', '1.000']
    seconds = tables['Seconds']
    assert seconds.columns == ['stage', 'seconds', 'a step']
    assert seconds.rows[-2:] == [
        ['PPO-Lagrangian', '30.0', '-'],
        ['total', '71.5', '-'],
    ]


def test_intervals_and_elo_stand_in_the_tables(run):
    made.add_intervals(run)
    tables = summaries.tables(summaries.summarize(files.load(run)))
    rates, elo = tables[:2]
    assert rates.title == 'Policies on 50 held-out prompts, with 95% intervals'
    assert [row[1] for row in rates.rows] == ['25.0%\n12.5–37.5%', '25.0%', '25.0%']
    assert elo.title == 'Elo, SFT = 1000, with 95% intervals'
    assert elo.columns[1:] == ['helpfulness (by reward)', 'harmlessness (by cost)']
    assert [row[1] for row in elo.rows] == ['1,000', '1,200\n1,150–1,260', '-']


def test_several_costs_have_their_names_in_tables_and_charts(run):
    file = run / 'evaluate' / 'results.json'
    results = json.loads(file.read_text()) | {'costs': ['harm', 'length']}
    for values in results['models'].values():
        values |= {'safe_rate': 0.25, 'win_rate': 0.5, 'cost/length': 7.0}
    made.write_json(file, results)
    table = summaries.policies(summaries.summarize(files.load(run)))
    assert table.columns[4:] == [
        'cost of harm',
        'safe (harm)',
        'wins over SFT',
        'cost of length',
    ]
    # Against itself there is nothing to tell of the baseline.
    assert table.rows[0][4:] == ['1.000', '25.0%', '-', '7.000']
    assert table.rows[1][4:] == ['2.000', '25.0%', '50.0%', '7.000']
    titles = [
        chart.figure.axes[0].get_title('left') for chart in charts.draw(files.load(run))
    ]
    assert 'Cost of harm of answers' in titles
    assert 'Reward against cost of harm' in titles
