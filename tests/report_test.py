"""Tests of the report: its figures, its files, its page, its errors."""

from html import parser
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from beaver_jax import report
from beaver_jax.report import __main__ as command
from beaver_jax.report import charts
from beaver_jax.report import files
from beaver_jax.report import page
from beaver_jax.report import summary as summaries

HOSTILE = '<script>alert("x")</script> & \u2028more'  # \u2028 separates lines
SAMPLE = '{"prompt": "", "answers": {}}'
SCORES = {'sft': (0.0, 1.0), 'ppo': (2.0, 2.0), 'ppo_lag': (1.0, -1.0)}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + '\n', encoding='utf-8')


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
    path.write_text(''.join(lines), encoding='utf-8')


def add_stage(run, name, seconds, rows=(), **summary):
    summary = {'stage': name, 'seed': 3, 'seconds': seconds, **summary}
    write_json(run / name / 'summary.json', summary)
    write_json(run / name / 'config.json', {'stage': name, 'note': HOSTILE})
    write_lines(run / name / 'metrics.jsonl', rows)


def rl_rows(constrained):
    for step in range(1, 6):
        row = {'step': step, 'train/reward': step / 2, 'train/cost/harm': 1.0 - step}
        if constrained:
            row['train/episode_cost/harm'] = 0.5 - step
            row['train/lambda/harm'] = 1.0 + step
            row['train/threshold/harm'] = -0.25
        yield row


def add_evaluation(run):
    models = {
        name: {
            'gold_harmful_rate': 0.25,
            'gold_helpfulness': reward + 0.5,
            'reward': reward,
            'cost': cost,
        }
        for name, (reward, cost) in SCORES.items()
    }
    empty = {'count': 0, 'win_rate': None}
    cells = {
        'safe': {'safe': {'count': 3, 'win_rate': 2 / 3}, 'unsafe': empty},
        'unsafe': {'safe': {'count': 1, 'win_rate': 1.0}, 'unsafe': empty},
    }
    results = {'prompts': 50, 'baseline': 'sft', 'models': models}
    results['tables'] = {'ppo_lag vs sft': cells}
    write_json(run / 'evaluate' / 'results.json', results)
    answers = {
        name: {'text': f'{name} says {HOSTILE}', 'reward': reward, 'cost': cost}
        for name, (reward, cost) in SCORES.items()
    }
    samples = [{'prompt': f'prompt {n}', 'answers': answers} for n in range(50)]
    write_lines(run / 'evaluate' / 'samples.jsonl', samples)


def make_run(run):
    losses = [{'step': step, 'train/loss': 1 / step} for step in (1, 2, 3)]
    add_stage(run, 'sft', 10.0, losses)
    pairs = [{'step': 2, 'train/accuracy': 0.5}, {'step': 2, 'eval/accuracy': 0.75}]
    add_stage(run, 'reward', 5.0, pairs, metrics={'accuracy': 0.75})
    accuracies = {'accuracy': 0.8, 'accuracy_sign': 0.9, 'loss': math.nan}
    add_stage(run, 'cost', 6.5, metrics=accuracies)
    add_stage(run, 'ppo', 20.0, rl_rows(constrained=False))
    timings = [{'step': s, 'time/step': t} for s, t in ((1, 60.0), (2, 1.0), (3, 2.0))]
    write_lines(run / 'ppo' / 'timings.jsonl', timings)
    multiplier = {'harm': {'init': 1.0, 'max': 6.0, 'final': 6.0}}
    thresholds = {'harm': -0.25}
    add_stage(
        run,
        'ppo_lag',
        30.0,
        rl_rows(constrained=True),
        multiplier=multiplier,
        thresholds=thresholds,
    )
    add_evaluation(run)
    return run


@pytest.fixture
def run(tmp_path):
    """A whole run, small enough to reckon by hand."""
    return make_run(tmp_path / 'runs' / 'tiny')


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    """The same run with its report; tests only read it."""
    run = make_run(tmp_path_factory.mktemp('reported') / 'tiny')
    report.write(run)
    return run


@pytest.fixture
def unfinished(tmp_path):
    """A run of one stage that is still under way."""
    run = tmp_path / 'runs' / 'new'
    write_lines(run / 'sft' / 'metrics.jsonl', [{'step': 1, 'train/loss': 2.0}])
    with (run / 'sft' / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 2, "tra')
    return run


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
    add_stage(run, 'sft', 10.0, seed=4)
    summary = report.write(run)
    assert 'seed' not in summary
    assert summary['seeds']['sft'] == 4
    assert summary['seeds']['ppo'] == 3


def test_the_same_run_gives_the_same_files(run):
    report.write(run)
    first = {path.name: path.read_bytes() for path in (run / 'report').iterdir()}
    report.write(run)
    second = {path.name: path.read_bytes() for path in (run / 'report').iterdir()}
    assert first == second


def test_every_plot_is_a_png_file(reported):
    plots = sorted((reported / 'report').glob('*.png'))
    assert [path.stem for path in plots] == [
        'accuracy',
        'cost_distribution',
        'cost_harm',
        'lambda_harm',
        'loss',
        'reward',
        'reward_against_cost',
        'reward_distribution',
    ]
    assert all(path.read_bytes().startswith(b'\x89PNG\r\n') for path in plots)


def axes_of(run, name):
    (chart,) = [chart for chart in charts.draw(files.load(run)) if chart.name == name]
    return chart.figure.axes[0]


def test_the_cost_is_drawn_against_its_threshold(run):
    axes = axes_of(run, 'cost_harm')
    lines = [list(line.get_ydata()) for line in axes.lines]
    costs = [0.0, -1.0, -2.0, -3.0, -4.0]
    assert lines[:2] == [costs, costs]  # PPO: each step, mean of a window of one
    assert lines[2:4] == [costs, [-0.5, -1.5, -2.5, -3.5, -4.5]]
    assert lines[4:] == [[-0.25, -0.25]]
    assert [text.get_text() for text in axes.texts] == ['threshold -0.25']


def test_the_multiplier_is_drawn_over_the_steps(run):
    (line,) = axes_of(run, 'lambda_harm').lines
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(line.get_ydata()) == [2, 3, 4, 5, 6]
    assert line.get_label() == 'PPO-Lagrangian'


def test_held_out_accuracy_is_marked(run):
    marks = axes_of(run, 'accuracy').lines[-1]
    assert (list(marks.get_xdata()), list(marks.get_ydata())) == ([2], [0.75])


def test_means_are_marked_among_the_answers(run):
    means = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes_of(run, 'reward_against_cost').lines
        if len(line.get_xdata()) == 1
    }
    assert means == {'SFT': (1, 0), 'PPO': (2, 2), 'PPO-Lagrangian': (-1, 1)}


def test_undefined_values_are_left_out_of_the_plots(run):
    rows = [{'step': s, 'train/loss': v} for s, v in ((1, 2.0), (2, 'NaN'), (3, 1.0))]
    add_stage(run, 'sft', 10.0, rows)
    assert list(axes_of(run, 'loss').lines[0].get_xdata()) == [1, 3]


def test_long_curves_are_thinned_by_means():
    steps, values = charts._thin(range(1, 1002), np.arange(1001.0))
    # ⌈1001 / 400⌉ = 3 steps a block: 333 blocks of 3 and one of 2, {999, 1000}.
    assert steps.shape == values.shape == (334,)
    assert (steps[0], values[0]) == (2.0, 1.0)
    assert (steps[-1], values[-1]) == (1000.5, 999.5)
    assert charts._thin([], [])[0].shape == (0,)


def test_the_running_mean_is_cut_off_at_the_ends():
    values = np.zeros(40)
    values[0], values[10] = 6.0, 3.0
    mean = charts._running_mean(values)  # 40 // 40 = 1 neighbour on each side
    assert mean[:3].tolist() == [3.0, 2.0, 0.0]  # 6/2, 6/3, 0/3
    assert mean[9:12].tolist() == [1.0, 1.0, 1.0]  # 3/3
    assert mean[12] == mean[39] == 0.0


class Page(parser.HTMLParser):
    """Collects a page's tags, and checks that they are closed in order."""

    VOID = ('meta', 'link', 'img', 'br', 'input', 'source')

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read_page(run):
    return Page((run / 'report' / 'index.html').read_text(encoding='utf-8'))


def test_the_page_needs_nothing_beside_it(reported):
    found = read_page(reported)
    assert found.open == []  # all tags are closed
    names = {tag for tag, _ in found.tags}
    assert {'svg', 'table', 'details', 'style'} <= names
    assert not names & {'script', 'link', 'img', 'iframe'}
    for _, attributes in found.tags:
        for name, value in attributes.items():
            if name in ('src', 'href', 'xlink:href'):
                assert value.startswith('#')


def test_the_page_shows_models_words_as_text(reported):
    found = read_page(reported)
    text = ''.join(found.texts)
    assert text.count(f'ppo_lag says {HOSTILE}') == page.SAMPLES
    assert '"note": "<script>' in text  # the config


def test_samples_are_spread_evenly(reported):
    prompts = [text for text in read_page(reported).texts if text.startswith('prompt ')]
    assert len(prompts) == 20
    assert prompts[:3] == ['prompt 0', 'prompt 2', 'prompt 5']  # ⌊50·n/20⌋
    assert prompts[-1] == 'prompt 47'  # ⌊50·19/20⌋


def test_the_page_counts_wins_by_safety(reported):
    texts = read_page(reported).texts
    at = texts.index('SFT safe')
    assert texts[at + 1 : at + 3] == ['3 (67% won)', '0']
    at = texts.index('SFT unsafe')
    assert texts[at + 1 : at + 3] == ['1 (100% won)', '0']


def test_plots_take_the_ink_of_the_page(run):
    chart = charts.draw(files.load(run))[0]
    image = charts.svg(chart)
    assert image.startswith('<svg')
    assert 'currentColor' in image
    assert charts.style.INK not in image


def test_bars_begin_at_zero():
    bars = Page(page._bars({'a': 1.0, 'b': -3.0}, False, {})).tags
    styles = [attributes['style'] for tag, attributes in bars if tag == 'i'][1::2]
    # From -3 to 1: zero is at 3/4 of the width.
    assert styles[0].startswith('margin-left:75.00%;width:25.00%')
    assert styles[1].startswith('margin-left:0.00%;width:75.00%')


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


def add_intervals(run):
    file = run / 'evaluate' / 'results.json'
    results = json.loads(file.read_text())
    results['intervals'] = {'sft': {'gold_harmful_rate': [0.125, 0.375]}}
    results['elo'] = {
        axis: {
            'sft': {'rating': 1000.0, 'low': 1000.0, 'high': 1000.0},
            'ppo': {'rating': 1200.0, 'low': 1150.4, 'high': 1260.0},
        }
        for axis in ('helpfulness', 'harmlessness')
    }
    results['tables']['ppo_lag vs sft']['safe']['safe']['win_rate_interval'] = [0.5, 1]
    write_json(file, results)


def test_intervals_and_elo_stand_in_the_tables(run):
    add_intervals(run)
    tables = summaries.tables(summaries.summarize(files.load(run)))
    rates, elo = tables[:2]
    assert rates.title == 'Policies on 50 held-out prompts, with 95% intervals'
    assert [row[1] for row in rates.rows] == ['25.0%\n12.5–37.5%', '25.0%', '25.0%']
    assert elo.title == 'Elo, SFT = 1000, with 95% intervals'
    assert elo.columns[1:] == ['helpfulness (by reward)', 'harmlessness (by cost)']
    assert [row[1] for row in elo.rows] == ['1,000', '1,200 (1,150–1,260)', '-']


def test_intervals_and_elo_stand_on_the_page(run):
    add_intervals(run)
    report.write(run)
    found = read_page(run)
    assert found.open == []
    assert '12.5–37.5%' in found.texts
    at = found.texts.index('3 (67% won)')
    assert found.texts[at + 1] == '50.0–100.0%'
    whiskers = [attributes['style'] for tag, attributes in found.tags if tag == 'u']
    assert whiskers == ['left:12.50%;width:25.00%']
    assert (run / 'report' / 'elo.png').exists()


def test_policies_are_drawn_in_the_plane_of_both_ratings(run):
    add_intervals(run)
    axes = axes_of(run, 'elo')
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
    assert points == [(1000, 1000), (1200, 1200)]


def test_several_costs_have_their_names_in_tables_and_charts(run):
    file = run / 'evaluate' / 'results.json'
    results = json.loads(file.read_text()) | {'costs': ['harm', 'length']}
    for values in results['models'].values():
        values |= {'safe_rate': 0.25, 'win_rate': 0.5, 'cost/length': 7.0}
    write_json(file, results)
    table = summaries.policies(summaries.summarize(files.load(run)))
    assert table.columns[4:] == [
        'cost of harm',
        'safe (harm)',
        'wins over SFT',
        'cost of length',
    ]
    assert table.rows[0][4:] == ['1.000', '25.0%', '50.0%', '7.000']
    titles = [
        chart.figure.axes[0].get_title('left') for chart in charts.draw(files.load(run))
    ]
    assert 'Cost of harm of answers' in titles
    assert 'Reward against cost of harm' in titles


def test_the_command_prints_the_tables(run, capsys):
    assert command.main([str(run)]) == 0
    out = capsys.readouterr().out
    assert 'PPO-Lagrangian' in out
    assert 'index.html' in out


def test_the_module_can_be_run(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'beaver_jax.report', str(tmp_path / 'none')],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith('error: no run at ')


def test_a_missing_run_is_named_with_its_neighbours(run, capsys):
    (run.parent / 'other').mkdir()
    assert command.main([str(run.parent / 'tyny')]) == 1
    assert 'tyny; ' in (error := capsys.readouterr().err)
    assert error.endswith('runs holds tiny, other.\n')
    with pytest.raises(FileNotFoundError, match=r'there is no .*nowhere either'):
        report.write(run / 'nowhere' / 'tiny')


def test_an_empty_run_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / 'sft' / 'checkpoints').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'nothing to report.*beaver_jax\.train'):
        report.write(tmp_path)
    assert not (tmp_path / 'report').exists()


def test_a_stage_is_not_taken_for_a_run(run):
    with pytest.raises(ValueError, match=r'is one stage; report its run: .*tiny\.'):
        report.write(run / 'sft')


@pytest.mark.parametrize(
    ('file', 'content', 'message'),
    [
        ('sft/summary.json', '{', r'sft/summary\.json is not JSON'),
        ('sft/summary.json', '[1]', r'sft/summary\.json is no JSON object'),
        (
            'evaluate/samples.jsonl',
            f'{SAMPLE}\nx\n',
            r'samples\.jsonl, line 2 is not JSON',
        ),
        ('evaluate/samples.jsonl', '{}\n', r'line 1 has no "prompt" and "answers"'),
        ('ppo/metrics.jsonl', 'x\n{"step": 1}\n', r'metrics\.jsonl, line 1'),
    ],
)
def test_a_damaged_file_is_named(run, file, content, message):
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        report.write(run)
