"""Tests of the writers: lines, resuming, event files, progress."""

import io
import json
import math
import os
import struct
import sys
import types

import jax.numpy as jnp
import pytest
import rich.console
from tensorboardX.proto import event_pb2

from beaver_jax import metrics
from beaver_jax import terminal


def open_writer(directory, resume_step=None, **settings):
    settings = {'tensorboard': False, 'wandb': None} | settings
    return metrics.Writer(directory, resume_step=resume_step, **settings)


def text(directory, name=metrics.METRICS):
    return (directory / name).read_text()


def events(directory):
    """(step, {tag: value}) of every event with values, in the order of the files."""
    found = []
    files = directory.glob('events*')
    for file in sorted(files, key=lambda file: int(file.suffix[1:])):
        data = file.read_bytes()
        while data:  # uint64 length, 4 bytes of checksum, the event, 4 of checksum
            (length,) = struct.unpack('<Q', data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            values = {v.tag: v.simple_value for v in event.summary.value}
            if values:
                found.append((event.step, values))
    return found


def test_lines_hold_the_step_and_the_values_by_name(tmp_path):
    with open_writer(tmp_path / 'new' / 'sft') as writer:
        writer.write(1, {'train/loss': jnp.float32(0.1), 'eval/loss': 2})
        writer.write_timings(1, {'time/step': 0.25})
    # float32(0.1) = 13421773 / 2²⁷ = 0.100000001490116119384765625
    assert text(tmp_path / 'new' / 'sft') == (
        '{"step": 1, "eval/loss": 2.0, "train/loss": 0.10000000149011612}\n'
    )
    assert text(tmp_path / 'new' / 'sft', metrics.TIMINGS) == (
        '{"step": 1, "time/step": 0.25}\n'
    )


def test_each_line_is_on_disk_before_the_next_step(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.write(1, {'a': 1})
        assert text(tmp_path) == '{"step": 1, "a": 1.0}\n'


def test_non_finite_values_stay_valid_json_and_are_read_back(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.write(3, {'a': math.nan, 'b': math.inf, 'c': -math.inf})

    def refuse(constant):
        raise AssertionError(constant)

    row = json.loads(text(tmp_path), parse_constant=refuse)
    assert row == {'step': 3, 'a': 'NaN', 'b': 'Infinity', 'c': '-Infinity'}
    (row,) = metrics.read(tmp_path / metrics.METRICS)
    assert math.isnan(row['a'])
    assert (row['b'], row['c']) == (math.inf, -math.inf)


def test_jsonable_copies_what_is_nested():
    value = {'a': [1.5, (math.nan, 'x')], 'b': {'c': math.inf, 'd': None}, 'e': True}
    assert metrics.jsonable(value) == {
        'a': [1.5, ['NaN', 'x']],
        'b': {'c': 'Infinity', 'd': None},
        'e': True,
    }


def test_a_vector_is_refused_by_name(tmp_path):
    with (
        open_writer(tmp_path) as writer,
        pytest.raises(ValueError, match='train/cost at step 7 is no scalar'),
    ):
        writer.write(7, {'train/cost': jnp.ones(2)})


def test_resuming_gives_the_file_of_an_undisturbed_run(tmp_path):
    def run(directory, resume_step, steps):
        with open_writer(directory, resume_step) as writer:
            for step in steps:
                writer.write(step, {'train/loss': 1 / (step + 1)})
                writer.write_timings(step, {'time/step': 0.5})

    run(tmp_path / 'alone', None, range(6))
    run(tmp_path / 'killed', None, range(4))
    for name in (metrics.METRICS, metrics.TIMINGS):
        with (tmp_path / 'killed' / name).open('a') as file:
            file.write('{"step": 4, "train/l')
    run(tmp_path / 'killed', 2, range(3, 6))
    for name in (metrics.METRICS, metrics.TIMINGS):
        assert text(tmp_path / 'killed', name) == text(tmp_path / 'alone', name)
    assert sorted(os.listdir(tmp_path / 'killed')) == ['metrics.jsonl', 'timings.jsonl']


def test_a_line_that_only_lacks_its_end_is_kept(tmp_path):
    (tmp_path / metrics.METRICS).write_text('{"step": 1, "a": 1.0}')
    with open_writer(tmp_path, resume_step=1) as writer:
        writer.write(2, {'a': 2})
    assert text(tmp_path) == '{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n'


def test_without_a_step_to_resume_from_the_files_begin_anew(tmp_path):
    (tmp_path / metrics.METRICS).write_text('not even JSON\n{"step": 1}\n')
    with open_writer(tmp_path) as writer:
        writer.write(1, {'a': 1})
    assert text(tmp_path) == '{"step": 1, "a": 1.0}\n'


@pytest.mark.parametrize('bad', ['oops', '[1]', '{"loss": 1.0}', '{"step": "1"}'])
def test_a_broken_line_in_the_middle_is_named(tmp_path, bad):
    content = f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n'
    (tmp_path / metrics.METRICS).write_text(content)
    with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2 is no JSON object'):
        open_writer(tmp_path, resume_step=3)
    assert text(tmp_path) == content


def test_reading_leaves_out_a_half_written_last_line(tmp_path):
    (tmp_path / metrics.METRICS).write_text('{"step": 1, "a": 2.5}\n{"step": 2, "a"')
    assert metrics.read(tmp_path / metrics.METRICS) == [{'step': 1.0, 'a': 2.5}]


def test_other_processes_write_nothing(tmp_path):
    with open_writer(tmp_path / 'no', enabled=False, tensorboard=True) as writer:
        writer.write(1, {'a': 1})
        writer.write_timings(1, {'a': 1})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named_with_the_way_out(tmp_path):
    with open_writer(tmp_path) as writer:
        (tmp_path / metrics.METRICS).symlink_to('/dev/full')
        with pytest.raises(OSError, match=r'free space .*metrics\.jsonl'):
            writer.write(1, {'a': 1})


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'make it writable.*file/sft'):
        open_writer(tmp_path / 'file' / 'sft')


def test_event_files_hold_both_kinds_and_are_flushed(tmp_path):
    with open_writer(tmp_path, tensorboard=True) as writer:
        writer.write(1, {'b': 0.5, 'a': math.nan})
        writer.write_timings(1, {'time/step': 0.25})
        first, second = events(tmp_path)
    assert first[0] == 1
    assert first[1]['b'] == 0.5
    assert math.isnan(first[1]['a'])
    assert second == (1, {'time/step': 0.25})


def test_a_resumed_event_file_purges_the_steps_to_come(tmp_path):
    for resume_step in (None, 4):
        with open_writer(tmp_path, resume_step, tensorboard=True) as writer:
            writer.write(5, {'a': 1})
    assert events(tmp_path) == [(5, {'a': 1}), (5, {'a': 1})]
    (file,) = tmp_path.glob('events*.5')
    starts = []
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack('<Q', data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        if event.session_log.status == event_pb2.SessionLog.START:
            starts.append(event.step)
    assert starts == [5]  # step 4 was restored, so 5 is the first to come again


def test_wandb_goes_on_in_the_same_run_when_resumed(tmp_path, monkeypatch):
    calls = []

    def init(**settings):
        calls.append(settings)
        return types.SimpleNamespace(
            log=lambda values, step: calls.append((step, values)),
            finish=lambda: calls.append('finish'),
        )

    monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=init))
    directory = tmp_path / 'tiny' / 'ppo'
    for resume_step in (None, 1, None):
        with open_writer(directory, resume_step, wandb='beaver') as writer:
            writer.write(1, {'a': 2})
    begun, logged, ended = calls[::3], calls[1::3], calls[2::3]
    assert begun[0]['project'] == 'beaver'
    assert begun[0]['name'] == 'tiny/ppo'
    assert begun[0]['id'] == begun[1]['id'] != begun[2]['id']
    assert logged == [(1, {'a': 2.0})] * 3
    assert ended == ['finish'] * 3


def test_a_missing_wandb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)  # makes its import fail
    with pytest.raises(ImportError, match=r"pip install 'beaver_jax\[wandb\]'"):
        open_writer(tmp_path, wandb='beaver')


def console(terminal, width=160):
    return rich.console.Console(
        file=io.StringIO(), force_terminal=terminal, width=width
    )


def test_progress_prints_lines_where_there_is_no_terminal(monkeypatch):
    # The first step compiled for a minute; then 49 steps took 98 s, 2 s each.
    clock = iter([60.0, 158.0])
    monkeypatch.setattr(terminal.time, 'monotonic', lambda: next(clock))
    out = console(terminal=False)
    with terminal.Progress('ppo', 100, every=0, console=out) as progress:
        progress.update(1, {'reward': 0.5})
        progress.update(
            50,
            {'reward': 1.25},
            {
                'time/step': 1.0,
                'time/rollout': 0.75,
                'time/update': 0.25,
                'tokens_per_second': 12345.6,
            },
        )
    assert out.file.getvalue() == (
        'ppo 1/100 · reward 0.500\n'
        'ppo 50/100 · reward 1.250 · 12,346 tokens/s · '
        '1.00 s/step (rollout 0.75, update 0.25) · 1:40 left\n'
    )


def test_progress_is_sparing_with_lines_but_shows_the_last_step():
    out = console(terminal=False)
    with terminal.Progress('sft', 4, every=1000, console=out) as progress:
        for step in range(1, 5):
            progress.update(step, {'loss': 0.5})
    lines = out.file.getvalue().splitlines()
    assert [line.split(' · ')[0] for line in lines] == ['sft 1/4', 'sft 4/4']


def test_progress_draws_a_bar_on_a_terminal():
    out = console(terminal=True)
    with terminal.Progress('sft', 4, start=2, console=out) as progress:
        progress.update(3, {'loss': 0.5})
    assert '3/4' in out.file.getvalue()
    assert 'loss 0.500' in out.file.getvalue()


def test_progress_of_other_processes_is_silent():
    for is_terminal in (False, True):
        out = console(is_terminal)
        with terminal.Progress('sft', 2, console=out, enabled=False) as progress:
            progress.update(2, {'loss': 0.5})
        assert out.file.getvalue() == ''


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (None, '-'),
        (1024, '1,024'),
        (0.0, '0.000'),
        (-1.23456, '-1.235'),
        (2e-5, '2.0e-05'),
        (31.25, '31.2'),
        (123456.7, '123,457'),
        (-math.inf, '-inf'),
        (math.nan, 'nan'),
    ],
)
def test_number(value, expected):
    assert terminal.number(value) == expected


def test_table_shows_titles_headings_and_cells():
    out = console(terminal=False)
    terminal.table(
        'Policies', ['', 'reward'], [['sft', 0.5], ['ppo', None]], console=out
    )
    lines = [line.split() for line in out.file.getvalue().splitlines()]
    assert ['Policies'] in lines
    assert ['sft', '0.500'] in lines
    assert ['ppo', '-'] in lines
