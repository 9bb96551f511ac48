"""How policies answer, and how right score models are, in tables and charts."""

import json

import numpy as np
import pytest

from beaver_jax.evaluate import pairs as pairs_lib
from beaver_jax.report import charts
from beaver_jax.report import files
from beaver_jax.report import summary as summaries
from tests.report import made

REWARD = pairs_lib.Pairs(np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5], [4.0, 0.0]]))
COST = pairs_lib.Pairs(
    np.array([[-1.0, 2.0], [1.0, 0.5]]), np.array([[1, -1], [1, -1]])
)


@pytest.fixture
def measured(run):
    """The run, whose evaluation has measured all there is."""
    file = run / 'evaluate' / 'results.json'
    results = json.loads(file.read_text())
    results['score_models'] = {
        'reward': pairs_lib.summarize(REWARD),
        'costs.harm': pairs_lib.summarize(COST),
    }
    for name, values in results['models'].items():
        values |= {'refusal_rate': 0.5, 'over_refusal_rate': 0.25, 'distinct_2': 0.125}
        if name != 'sft':
            values['kl'] = 1.5
    results['intervals'] = {'ppo': {'over_refusal_rate': [0.2, 0.3]}}
    made.write_json(file, results)
    return files.load(run)


def titled(summary, title):
    (table,) = [x for x in summaries.tables(summary) if x.title == title]
    return table


def test_how_policies_answer(measured):
    table = titled(summaries.summarize(measured), 'Their answers')
    assert table.columns == [
        'policy',
        'refuse',
        'refuse benign prompts',
        'KL to baseline, nats',
        'distinct 2-grams',
    ]
    assert table.rows[0] == ['SFT', '50.0%', '25.0%', '-', '12.5%']
    assert table.rows[1] == ['PPO', '50.0%', '25.0%\n20.0–30.0%', '1.500', '12.5%']


def test_without_such_figures_there_is_no_such_table(run):
    tables = summaries.tables(summaries.summarize(files.load(run)))
    assert 'Their answers' not in [table.title for table in tables]


def test_score_models_by_the_evaluation(measured):
    table = titled(summaries.summarize(measured), 'Score models on held-out pairs')
    assert table.columns[:3] == ['model', 'accuracy', 'accuracy of the sign']
    assert table.columns[-1] == 'calibration error of the sign'
    # 3 of 4; 1 of 2, and 3 of 4 signs.
    low, high = (
        f'{100 * x:.1f}' for x in pairs_lib.summarize(REWARD)['intervals']['accuracy']
    )
    assert table.rows[0][:3] == ['Reward model', f'75.0%\n{low}–{high}%', '-']
    assert [cell.split('\n')[0] for cell in table.rows[1][:3]] == [
        'Cost model: harm',
        '50.0%',
        '75.0%',
    ]


def test_calibration_and_classes_are_drawn(measured):
    drawn = {chart.name: chart for chart in charts.draw(measured)}
    axes = drawn['calibration'].figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    bins = pairs_lib.sign_calibration(COST)
    line = lines['Cost model: harm, sign']
    assert list(line.get_xdata()) == [one['said'] for one in bins]
    assert list(line.get_ydata()) == [one['found'] for one in bins]
    assert lines.keys() >= {'Reward model', 'Cost model: harm'}
    for name, labels in (
        ('reward_by_label', ['better', 'worse']),
        ('costs_harm_by_label', ['safe', 'unsafe']),
    ):
        steps = drawn[name].figure.axes[0].patches
        assert [one.get_label() for one in steps] == labels
        for one in steps:
            assert sum(one.get_data().values) == pytest.approx(1)
