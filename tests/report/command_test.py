"""Tests of the report: the command, and errors of runs."""

import subprocess
import sys

import pytest

from beaver_jax import report
from beaver_jax.report import __main__ as command
from beaver_jax.status import __main__ as status
from tests import micro
from tests.report import made


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
    assert done.stderr.startswith('Error: no run at ')
    assert done.stderr.count('\n') == 1


def test_a_missing_run_is_named_with_its_neighbours(run):
    (run.parent / 'other').mkdir()
    (run.parent / 'model').mkdir()
    made.write_json(run.parent / 'weights' / 'model' / 'config.json', {'dim': 8})
    made.write_json(run.parent / 'new' / 'sft' / 'config.json', {'stage': 'sft'})
    made.write_json(run.parent / 'report' / 'summary.json', {})
    missing = run.parent / 'tyny'
    message = f'Error: no run at {missing}; {run.parent} holds tiny, new.'
    assert micro.error(command.main, [str(missing)]) == message
    assert micro.error(status.main, [str(missing)]) == message
    with pytest.raises(FileNotFoundError, match=r'there is no .*nowhere either'):
        report.write(run / 'nowhere' / 'tiny')
    with pytest.raises(FileNotFoundError, match=r'runs holds no run\.'):
        report.write(empty(run.parent / 'runs') / 'tiny')
    with pytest.raises(FileNotFoundError, match=r'is a run itself.* are cost, eval'):
        report.write(run / 'ppo_leg')


def empty(directory):
    directory.mkdir()
    return directory


def test_another_directory_may_be_written_but_not_over_other_things(run, tmp_path):
    out = tmp_path / 'some' / 'where'
    for _ in range(2):  # an earlier report may be written again
        assert command.main([str(run), '--out', str(out)]) == 0
    assert (out / 'index.html').exists()
    assert not (run / 'report').exists()
    mine = tmp_path / 'mine'
    made.write_json(mine / 'index.html', 'a page of mine')
    said = micro.error(command.main, [str(run), '--out', str(mine)])
    assert said == f'Error: {mine} is there and is no report; name another with --out.'
    assert [path.name for path in mine.iterdir()] == ['index.html']
    file = mine / 'index.html'
    assert 'is no report' in micro.error(command.main, [str(run), '--out', str(file)])


def test_an_empty_run_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / 'sft' / 'checkpoints').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'nothing to report.*beaver_jax\.train'):
        report.write(tmp_path)
    assert not (tmp_path / 'report').exists()


@pytest.mark.parametrize('part', ['sft', 'evaluate'])
def test_a_part_is_not_taken_for_a_run(run, part):
    with pytest.raises(ValueError, match=r'is a part of a run; report the run: .*tiny'):
        report.write(run / part)


def test_a_report_of_other_making_is_not_written_over(run):
    directory = run / 'report'
    made.write_json(directory / 'notes.json', 'mine')
    said = micro.error(command.main, [str(run)])
    assert said == f'Error: {directory} is there and is no report; move it away.'
    assert [path.name for path in directory.iterdir()] == ['notes.json']
    # Earlier ones are known by their two files.
    (directory / 'notes.json').rename(directory / 'summary.json')
    (directory / 'index.html').write_text('<html>')
    assert command.main([str(run)]) == 0
    assert 'PPO-Lagrangian' in (directory / 'index.html').read_text()


@pytest.mark.parametrize(
    ('file', 'content', 'message'),
    [
        ('sft/summary.json', '{', r'sft/summary\.json is not JSON'),
        ('sft/summary.json', '[1]', r'sft/summary\.json is no JSON object'),
        (
            'evaluate/samples.jsonl',
            f'{made.SAMPLE}\nx\n',
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
