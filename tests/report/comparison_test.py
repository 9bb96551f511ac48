"""Tests of the comparison of several runs, through its command for the most part."""

import json
import pathlib
import shutil

import pytest

from beaver_jax import layout
from beaver_jax import report
from beaver_jax.report import __main__ as command
from beaver_jax.report import comparison
from beaver_jax.report import files
from beaver_jax.report import overlays
from tests import micro
from tests.report import made


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs that were evaluated alike; tests only read them."""
    directory = tmp_path_factory.mktemp('compared')
    return [make(directory / 'tiny'), make(directory / 'loose', cost=-2.0)]


@pytest.fixture(scope='module')
def compared(runs):
    """The directory of their comparison."""
    report.compare({run.name: run for run in runs}, runs[0].parent / 'report')
    return runs[0].parent / 'report'


def make(run, cost=-1.0):
    """A run whose PPO-Lagrangian has this mean cost, ± 0.1."""
    made.make_run(run)
    made.add_evaluation_config(run)
    file = run / 'evaluate' / 'samples.jsonl'
    # Not splitlines, which would also cut at line separators inside of answers.
    rows = [json.loads(line) for line in file.read_text().split('\n') if line]
    for index, row in enumerate(rows):
        row['answers']['ppo_lag']['cost'] = cost + (0.1 if index % 2 else -0.1)
    made.write_lines(file, rows)
    return run


def load(runs):
    return {run.name: files.load(run) for run in runs}


def test_the_command_compares_and_says_where(runs, compared, capsys):
    out = compared.parent / 'out'
    assert command.main([*map(str, runs), '--out', str(out)]) == 0
    said = capsys.readouterr().out
    for word in ('tiny: PPO-Lagrangian', 'loose: PPO-Lagrangian', 'front'):
        assert word in said
    assert 'mean ± 1.96·s/√n' in said
    assert 'cannot be compared' not in said
    assert f'The whole report: {out}/index.html' in said
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        'cost_harm.png',
        'front_cost.png',
        'index.html',
        'lambda_harm.png',
        'reward.png',
        'speed.png',
        'summary.json',
    ]
    # The same runs give the same files, wherever they are written.
    for path in out.iterdir():
        assert path.read_bytes() == (compared / path.name).read_bytes(), path.name


def test_by_default_it_stands_beside_the_runs(tmp_path, runs):
    beside, far = tmp_path / 'a' / 'one', tmp_path / 'b' / 'two'
    assert comparison.directory(runs) == runs[0].parent / 'report'
    near = [pathlib.Path(name) for name in ('runs/a', 'runs/b')]
    assert comparison.directory(near) == pathlib.Path('runs/report')
    # From within a run: not in its own report.
    beneath = [pathlib.Path('.'), pathlib.Path('../other')]
    assert comparison.directory(beneath) == pathlib.Path.cwd().parent / 'report'
    assert [*layout.named(['.'])] == [pathlib.Path.cwd().name]
    for path in (beside, far):
        shutil.copytree(runs[0], path)
    said = micro.error(command.main, [str(beside), str(far)])
    assert said.endswith('say where to write with --out.')
    assert f'{tmp_path}/a, {tmp_path}/b' in said


def test_what_is_no_report_is_not_written_over(tmp_path, runs):
    pair = [tmp_path / 'one', tmp_path / 'report']  # a run of that name
    for path in pair:
        shutil.copytree(runs[0], path)
    before = micro.snapshot(tmp_path)
    said = micro.error(command.main, [*map(str, pair)])
    assert said == f'Error: {tmp_path}/report is there and is no report; name ' + (
        'another with --out.'
    )
    assert micro.snapshot(tmp_path) == before


def test_a_comparison_is_not_taken_for_a_stage_or_a_run(compared):
    out = compared.parent / 'mine'
    shutil.copytree(compared, out)
    with pytest.raises(ValueError, match='holds nothing to report'):
        files.load(compared.parent)
    with pytest.raises(FileNotFoundError, match='holds loose, tiny'):
        files.load(compared.parent / 'los')


def test_two_runs_of_one_name_are_told_how_to_be_told_apart(tmp_path, runs):
    other = tmp_path / 'tiny'
    said = micro.error(command.main, [str(runs[0]), str(other)])
    assert said == (
        f"Error: '{runs[0]}' and '{other}' are both called 'tiny'; use NAME=PATH."
    )


def test_one_that_is_missing_ends_it_before_anything_is_written(runs, tmp_path):
    out = tmp_path / 'out'
    missing = [str(runs[0]), str(runs[0].parent / 'lose'), '--out', str(out)]
    assert 'holds loose, tiny' in micro.error(command.main, missing)
    assert not out.exists()


def test_the_table_has_means_with_intervals_and_who_is_on_the_front(runs):
    (table,) = comparison.policies(comparison.summarize(load(runs)))
    assert table.columns[:2] == ['policy', 'front']
    cells = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    # SFT (cost 1, reward 0) is dominated; PPO (2, 2) has the highest reward; of
    # PPO-Lagrangian (-1, 1) and (-2, 1) one costs less.
    on = [name for name, row in cells.items() if row['front'] == 'yes']
    assert on == ['tiny: PPO', 'loose: PPO', 'loose: PPO-Lagrangian']
    # Of 50 draws at ±0.1: s² = 50·0.01/49, 1.959964·√(s²/50) = 1.959964·0.1/7 = 0.028.
    assert cells['tiny: PPO-Lagrangian']['cost'] == '-1.000\n-1.028 to -0.972'
    assert cells['tiny: PPO-Lagrangian']['reward'] == '1.000\n1.000 to 1.000'


def test_rates_keep_their_intervals(runs, tmp_path):
    run = tmp_path / 'tiny'
    shutil.copytree(runs[0], run)
    made.add_intervals(run)
    (table,) = comparison.policies(comparison.summarize(load([run, runs[1]])))
    at = table.columns.index('harmful (gold)')
    assert [row[at] for row in table.rows[:2]] == ['25.0%\n12.5–37.5%', '25.0%']


def test_the_summary_is_json_of_the_same(compared):
    summary = json.loads((compared / 'summary.json').read_text())
    assert list(summary['runs']) == ['tiny', 'loose']
    assert summary['comparable'] == [['tiny', 'loose']]
    assert summary['fronts']['cost'] == [
        ['loose', 'ppo_lag'],
        ['tiny', 'ppo'],
        ['loose', 'ppo'],
    ]
    assert summary['runs']['loose']['ppo_lag']['reward'] == 1.0
    assert summary['notes'] == []


def test_the_page_needs_nothing_beside_it_and_shows_words_as_text(compared):
    found = made.read_page(compared)
    made.needs_nothing(found)
    text = ''.join(found.texts)
    assert text.count(f'ppo_lag says {made.HOSTILE}') == 100  # 50 prompts, two runs
    assert '<script>' not in ''.join(
        value or '' for _, attributes in found.tags for value in attributes.values()
    )


def test_different_evaluations_are_told_on_page_and_terminal(runs, tmp_path, capsys):
    pair = [tmp_path / run.name for run in runs]
    for run, copy in zip(runs, pair, strict=True):
        shutil.copytree(run, copy)
    made.add_evaluation_config(pair[1], costs__harm__init='hub/other')
    assert command.main([*map(str, pair)]) == 0
    note = 'Rewards and costs cannot be compared between all of these runs'
    why = 'costs.harm.init is "hub/cost" in tiny, "hub/other" in loose.'
    said = capsys.readouterr().out
    assert note in said
    assert why in said
    page = made.read_page(tmp_path / 'report')
    text = ''.join(page.texts)
    assert note in text
    assert why in text
    # Each has a front of its own, now PPO-Lagrangian of both, a table and a picture.
    fronts = json.loads((tmp_path / 'report' / 'summary.json').read_text())['fronts']
    assert ['tiny', 'ppo_lag'] in fronts['cost']
    for name in ('tiny', 'loose'):
        assert f'Policies on 50 held-out prompts: {name}' in page.texts
        assert f'Policies on 50 held-out prompts: {name}' in said
    names = {path.name for path in (tmp_path / 'report').iterdir()}
    assert {'front_cost_1.png', 'front_cost_2.png'} < names
    for number, run in enumerate(pair, start=1):
        drawn = axes_of(pair, f'front_cost_{number}').get_legend_handles_labels()[1]
        assert drawn == [run.name]
    assert 'tiny. Up and to the left' in text
    assert 'heights cannot be compared' not in text  # trained alike
    for run, model in zip(pair, 'ab', strict=True):
        config = {'stage': 'ppo_lag', 'reward.init': f'hub/{model}'}
        made.write_json(run / 'ppo_lag' / 'config.json', config)
    report.compare({run.name: run for run in pair}, tmp_path / 'report')
    text = ''.join(made.read_page(tmp_path / 'report').texts)
    assert text.count('heights cannot be compared') == 3  # of reward, cost and λ


def test_other_prompts_have_no_place_side_by_side(runs, tmp_path):
    run = tmp_path / 'other'
    shutil.copytree(runs[1], run)
    row = {'prompt': 'another', 'answers': {'sft': {'text': 'mine', 'reward': 0.0}}}
    made.write_lines(run / 'evaluate' / 'samples.jsonl', [row])
    report.compare({'tiny': runs[0], 'other': run}, tmp_path / 'out')
    found = made.read_page(tmp_path / 'out')
    assert 'Sample answers' not in found.texts
    assert 'script' not in {tag for tag, _ in found.tags}
    assert 'Different prompts: 50 of tiny; 1 of other.' in found.texts


def test_configs_that_differ_are_in_a_table(runs, tmp_path):
    run = tmp_path / 'other'
    shutil.copytree(runs[0], run)
    for stage in ('sft', 'ppo'):
        config = {'stage': stage, 'note': made.HOSTILE, 'seed': 1, 'x': stage}
        made.write_json(run / stage / 'config.json', config)
    summary = comparison.summarize(load([runs[0], run]))
    table = comparison.differences_of_configs(summary)
    assert table.columns == ['key', 'tiny', 'other', 'stages']
    # The seed differs in both alike, and so has one row.
    assert table.rows == [
        ['seed', '-', '1', 'SFT, PPO'],
        ['x', '-', '"ppo"', 'PPO'],
        ['x', '-', '"sft"', 'SFT'],
    ]


def axes_of(runs, name):
    (chart,) = [one for one in overlays.draw(load(runs)) if one.name == name]
    return chart.figure.axes[0]


def test_curves_lie_over_each_other(runs):
    axes = axes_of(runs, 'reward')
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == [
        'tiny: PPO',
        'tiny: PPO-Lagrangian',
        'loose: PPO',
        'loose: PPO-Lagrangian',
    ]
    assert list(lines['tiny: PPO'].get_ydata()) == [0.5, 1.0, 1.5, 2.0, 2.5]
    colors = [line.get_color() for line in lines.values()]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    dashes = [line.get_linestyle() for line in lines.values()]
    assert dashes[0] == dashes[2] != dashes[1] == dashes[3]


def test_thresholds_are_drawn_once_or_in_the_colour_of_the_run(runs, tmp_path):
    texts = [text.get_text() for text in axes_of(runs, 'cost_harm').texts]
    assert texts == ['threshold -0.25']
    run = tmp_path / 'other'
    shutil.copytree(runs[0], run)
    rows = [row | {'train/threshold/harm': -0.5} for row in made.rl_rows(True)]
    made.write_lines(run / 'ppo_lag' / 'metrics.jsonl', rows)
    axes = axes_of([runs[0], run], 'cost_harm')
    limits = {line.get_ydata()[0]: line for line in axes.lines[-2:]}
    assert set(limits) == {-0.25, -0.5}
    assert limits[-0.25].get_color() == axes.lines[0].get_color()
    assert limits[-0.5].get_color() == axes.lines[-3].get_color()


def test_the_front_is_drawn_through_the_policies_on_it(runs):
    axes = axes_of(runs, 'front_cost')
    (front,) = [line for line in axes.lines if line.get_drawstyle() == 'steps-post']
    assert list(front.get_xdata()) == pytest.approx([-2, 2, 2])
    assert list(front.get_ydata()) == pytest.approx([1, 2, 2])
    assert [text.get_text() for text in axes.texts] == [
        *('SFT', 'PPO', 'PPO-Lagrangian') * 2
    ]
    bars = [box for box in axes.containers if box.has_xerr]
    assert len(bars) == 6


def test_policies_that_lie_together_share_a_name(runs, tmp_path):
    run = tmp_path / 'other'
    shutil.copytree(runs[0], run)
    (run / 'evaluate' / 'samples.jsonl').unlink()
    models = {
        name: {'reward': reward, 'cost': 0.0}
        for name, reward in (
            ('sft', 0.0),
            ('ppo', 1.0),
            ('ppo_lag', 1.01),
            ('x', 'NaN'),
        )
    }
    made.write_json(run / 'evaluate' / 'results.json', {'models': models})
    texts = [text.get_text() for text in axes_of([run], 'front_cost').texts]
    assert texts == ['SFT', 'PPO, PPO-Lagrangian']


def test_runs_without_an_evaluation_are_compared_by_their_curves(unfinished, runs):
    found = load([unfinished, runs[0]])
    summary = comparison.summarize(found)
    assert summary['notes'] == ['Not evaluated: new.']
    (table,) = comparison.policies(summary)
    assert table.rows[0][0] == 'tiny: SFT'
    assert 'reward' in [chart.name for chart in overlays.draw(found)]
    alone = comparison.summarize(load([unfinished]))
    assert comparison.policies(alone) == []
