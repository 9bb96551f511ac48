"""Tests of the report: the plots of a run."""

import numpy as np

from beaver_jax.report import charts
from beaver_jax.report import files
from beaver_jax.report import plots
from tests.report import made


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
        'speed_of_learning',
    ]
    assert all(path.read_bytes().startswith(b'\x89PNG\r\n') for path in plots)


def test_the_cost_is_drawn_against_its_threshold(run):
    axes = made.axes_of(run, 'cost_harm')
    lines = [list(line.get_ydata()) for line in axes.lines]
    costs = [0.0, -1.0, -2.0, -3.0, -4.0]
    assert lines[:2] == [costs, costs]  # PPO: each step, mean of a window of one
    assert lines[2:4] == [costs, [-0.5, -1.5, -2.5, -3.5, -4.5]]
    assert lines[4:] == [[-0.25, -0.25]]
    assert [text.get_text() for text in axes.texts] == ['threshold -0.25']


def test_captions_tell_of_marks_where_there_are_any(run):
    captions = {one.name: one.caption for one in charts.draw(files.load(run))}
    trend = 'Thin: each step; thick: mean of its neighbours.'
    assert captions['accuracy'] == f'{trend} Marks: held-out.'  # of the reward model
    assert captions['loss'] == trend


def test_the_multiplier_is_drawn_over_the_steps(run):
    (line,) = made.axes_of(run, 'lambda_harm').lines
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(line.get_ydata()) == [2, 3, 4, 5, 6]
    assert line.get_label() == 'PPO-Lagrangian'


def test_held_out_accuracy_is_marked(run):
    marks = made.axes_of(run, 'accuracy').lines[-1]
    assert (list(marks.get_xdata()), list(marks.get_ydata())) == ([2], [0.75])


def test_means_are_marked_among_the_answers(run):
    means = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in made.axes_of(run, 'reward_against_cost').lines
        if len(line.get_xdata()) == 1
    }
    assert means == {'SFT': (1, 0), 'PPO': (2, 2), 'PPO-Lagrangian': (-1, 1)}


def test_undefined_values_are_left_out_of_the_plots(run):
    rows = [{'step': s, 'train/loss': v} for s, v in ((1, 2.0), (2, 'NaN'), (3, 1.0))]
    made.add_stage(run, 'sft', 10.0, rows)
    assert list(made.axes_of(run, 'loss').lines[0].get_xdata()) == [1, 3]


def test_long_curves_are_thinned_by_means():
    steps, values = plots.thin(range(1, 1002), np.arange(1001.0))
    # ⌈1001 / 400⌉ = 3 steps a block: 333 blocks of 3 and one of 2, {999, 1000}.
    assert steps.shape == values.shape == (334,)
    assert (steps[0], values[0]) == (2.0, 1.0)
    assert (steps[-1], values[-1]) == (1000.5, 999.5)
    assert plots.thin([], [])[0].shape == (0,)


def test_the_running_mean_is_cut_off_at_the_ends():
    values = np.zeros(40)
    values[0], values[10] = 6.0, 3.0
    mean = plots.running_mean(values)  # 40 // 40 = 1 neighbour on each side
    assert mean[:3].tolist() == [3.0, 2.0, 0.0]  # 6/2, 6/3, 0/3
    assert mean[9:12].tolist() == [1.0, 1.0, 1.0]  # 3/3
    assert mean[12] == mean[39] == 0.0


def test_plots_take_the_ink_of_the_page(run):
    chart = charts.draw(files.load(run))[0]
    image = plots.svg(chart)
    assert image.startswith('<svg')
    assert 'currentColor' in image
    assert plots.style.INK not in image


def test_policies_are_drawn_in_the_plane_of_both_ratings(run):
    made.add_intervals(run)
    axes = made.axes_of(run, 'elo')
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
    assert points == [(1000, 1000), (1200, 1200)]


def test_speed_is_tokens_per_second_where_they_are_counted(run):
    # Without the first step, which compiles.
    assert list(axes_of_speed(run).lines[-1].get_ydata()) == [1.0, 2.0]
    rows = [{'step': s, 'tokens_per_second': 100.0 * s} for s in (1, 2, 3)]
    made.write_lines(run / 'ppo_lag' / 'timings.jsonl', rows)
    axes = axes_of_speed(run)
    assert axes.get_title('left') == 'Speed, tokens per second'
    (line,) = [line for line in axes.lines if line.get_label() == 'PPO-Lagrangian']
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([2, 3], [200, 300])


def axes_of_speed(run):
    return made.axes_of(run, 'speed_of_learning')
