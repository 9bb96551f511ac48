"""Where a run is, from its files."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from beaver_jax import heartbeats
from beaver_jax import layout
from beaver_jax import status
from beaver_jax.status import __main__ as command
from beaver_jax.status import shown
from tests import micro

NOW = 1000.0


class Made:
    """A stage's directory, of files written by hand."""

    def __init__(self, run, stage='sft', *, begun=100.0, heartbeat=10.0):
        self.path = run / stage
        self.path.mkdir(parents=True)
        config = {'stage': stage, 'log.heartbeat': heartbeat}
        self._write(layout.CONFIG, json.dumps(config), begun)

    def _write(self, name, text, at):
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        os.utime(file, (at, at))

    def steps(self, count, seconds=2.0):
        rows = [{'step': i + 1, 'train/loss': 1 / (i + 1)} for i in range(count)]
        times = [
            {'step': i + 1, 'time/step': seconds if i else 60.0, 'tokens_per_second': 9}
            for i in range(count)
        ]
        for name, values in (('metrics', rows), ('timings', times)):
            lines = ''.join(f'{json.dumps(row)}\n' for row in values)
            self._write(f'{name}.jsonl', lines, 990.0)
        return self

    def beat(self, process=0, *, at=995.0, **changes):
        values = {
            'process': process,
            'processes': 1,
            'host': 'a',
            'step': 4,
            'steps': 10,
            'doing': heartbeats.COMPUTING,
            'since': at,
            'time': at,
            'every': 10.0,
        }
        text = json.dumps(values | changes)
        self._write(f'{heartbeats.DIRECTORY}/{process:05}.json', text, at)
        return self

    def done(self):
        self._write(layout.SUMMARY, '{}', 995.0)
        return self

    def checkpoint(self, step, size, at):
        folder = self.path / layout.CHECKPOINTS / f'{step}'
        folder.mkdir(parents=True)
        (folder / 'values').write_bytes(b'x' * size)
        os.utime(folder, (at, at))
        return self


def read(run):
    (found,) = status.read(run, NOW)
    return found


def test_a_stage_that_runs(tmp_path):
    Made(tmp_path).steps(4).beat().checkpoint(2, 1500, 940.0)
    found = read(tmp_path)
    assert (found.name, found.state, found.healthy) == ('sft', status.RUNNING, True)
    assert (found.step, found.steps, found.since) == (4, 10, 995.0)
    # Medians of 60, 2, 2 and 2; six steps are left.
    assert (found.seconds_per_step, found.tokens_per_second) == (2.0, 9.0)
    assert found.seconds_left == 12.0
    assert found.metrics == {'loss': 0.25}
    assert found.checkpoints == [layout.Saved(2, 1500, 940.0)]
    assert shown.text([found], NOW) == (
        'sft: running · step 4 of 10 · 2.00 s/step · 9 tokens/s · 12 s left · last '
        'sign 5 s ago\n'
        '  loss 0.250\n'
        '  checkpoints: 2 (1.5 kB, 1 min ago)\n'
        '  process 0 (a): computing for 5 s, heard of 5 s ago'
    )


def test_a_stage_that_is_done(tmp_path):
    Made(tmp_path).steps(4).beat(doing='ended', at=500.0).done()
    found = read(tmp_path)
    assert (found.state, found.healthy, found.seconds_left) == ('done', True, None)


@pytest.mark.parametrize(
    ('beat', 'state', 'concern'),
    [
        (
            {'doing': 'failed', 'error': 'no room'},
            'failed',
            'process 0 (a) ended with an error: no room',
        ),
        ({'doing': 'ended'}, 'stopped', 'stopped before its end'),
        # 950 + 3·10 + 10 = 990.
        ({'at': 950.0}, 'silent', 'process 0 (a) has not been heard of for 50 s'),
    ],
)
def test_what_is_wrong(beat, state, concern, tmp_path):
    Made(tmp_path).steps(4).beat(**beat)
    found = read(tmp_path)
    assert (found.state, found.healthy) == (state, False)
    (text,) = found.concerns.values()
    assert concern in text
    assert found.seconds_left is None
    assert f'  ! {concern}' in shown.text([found], NOW)


def test_all_steps_are_done_and_the_summary_may_yet_come(tmp_path):
    made = Made(tmp_path).steps(4).beat(doing='ended', step=10)
    assert read(tmp_path).state == status.RUNNING
    made.beat(doing='ended', step=10, at=939.0)  # a minute later it will not
    assert read(tmp_path).state == status.STOPPED


def test_one_of_two_that_has_ended_is_no_stop(tmp_path):
    Made(tmp_path).beat(doing='ended').beat(1)
    assert read(tmp_path).state == status.RUNNING


def test_who_is_waited_for_is_wrong_and_who_is_slow_is_not(tmp_path):
    made = Made(tmp_path).beat(own=0.1, pace=1.0).beat(1, own=0.9, pace=1.0)
    found = read(tmp_path)
    assert (set(found.concerns), found.healthy) == ({'slowest'}, True)
    made.beat(1, doing=heartbeats.READING, since=900.0)
    found = read(tmp_path)
    assert (set(found.concerns), found.healthy) == ({'1 reading rows'}, False)
    assert found.state == status.RUNNING


def test_signs_of_an_earlier_start_are_not_of_this_one(tmp_path):
    made = Made(tmp_path, begun=980.0).beat(at=970.0, doing='failed')
    assert read(tmp_path).state == status.STARTING
    assert read(tmp_path).processes == []
    made.beat(at=985.0)
    assert read(tmp_path).state == status.RUNNING


def test_a_start_that_never_comes_to_anything(tmp_path):
    Made(tmp_path, begun=NOW - status.BUILDS)
    assert read(tmp_path).state == status.STARTING
    (found,) = status.read(tmp_path, NOW + 1)
    assert (found.state, found.healthy) == (status.SILENT, False)


def test_without_signs_of_life_nothing_is_known(tmp_path):
    Made(tmp_path, heartbeat=0.0).steps(3)
    found = read(tmp_path)
    assert (found.state, found.healthy, found.step) == ('unknown', True, 3)


def test_an_evaluation_gives_signs_of_life_as_others_do(tmp_path):
    made = Made(tmp_path, 'evaluate')
    assert read(tmp_path).state == status.STARTING
    made.beat(at=NOW - 1)
    assert read(tmp_path).state == status.RUNNING
    made._write(layout.RESULTS, '{}', NOW - 0.5)
    assert read(tmp_path).state == status.DONE
    # It is made anew, and the old results are still there.
    made.beat(at=NOW - 0.2)
    assert read(tmp_path).state == status.RUNNING
    made.beat(at=NOW - 0.1, doing=heartbeats.ENDED)
    assert read(tmp_path).state == status.DONE


@pytest.mark.parametrize('seconds', ['abc', '0', '-1', 'nan', 'inf'])
def test_times_to_watch_that_are_none(tmp_path, capsys, seconds):
    with pytest.raises(SystemExit) as caught:
        command.main([str(tmp_path), f'--watch={seconds}'])
    assert caught.value.code == 2
    told = f'--watch: {seconds!r} is no number above 0, and finite'
    assert told in capsys.readouterr().err


def test_the_stages_in_their_order_or_one_of_them(tmp_path):
    for name in ('evaluate', 'ppo_lag', 'sft'):
        Made(tmp_path, name).done()
    (tmp_path / 'sft').rename(tmp_path / 'aside')  # as `overwrite` does
    assert [one.name for one in status.read(tmp_path, NOW)] == ['ppo_lag', 'evaluate']
    assert [one.name for one in status.read(tmp_path / 'aside', NOW)] == ['sft']


def test_what_is_half_written_is_no_checkpoint(tmp_path):
    made = Made(tmp_path).checkpoint(10, 5, 900.0).checkpoint(9, 5, 900.0)
    half = made.path / layout.CHECKPOINTS / '11.orbax-checkpoint-tmp'
    half.mkdir()
    assert [saved.step for saved in read(tmp_path).checkpoints] == [9, 10]


# ---- The command --------------------------------------------------------------------


def test_a_run_that_is_done_has_status_0_and_is_left_as_it_is(chain, capsys):
    before = micro.snapshot(chain)
    assert command.main([str(chain)]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line.partition(' · ')[0] for line in lines if not line.startswith(' ')]
    stages = ('sft', 'reward', 'cost', 'ppo_lag', 'evaluate')
    assert told == [f'{name}: done' for name in stages]
    assert micro.snapshot(chain) == before
    # Of a real run, whose checkpoints are Orbax's.
    (found,) = status.read(chain / 'ppo_lag', time.time())
    assert [saved.step for saved in found.checkpoints] == [4, 5]
    assert all(saved.bytes > 1000 for saved in found.checkpoints)
    assert set(found.metrics) == {'reward', 'cost', 'lambda', 'kl_divergence'}
    assert [beat.doing for beat in found.processes] == [heartbeats.ENDED]


def test_something_wrong_has_status_3(tmp_path, capsys):
    made = Made(tmp_path).beat(doing='failed', at=time.time())
    os.utime(made.path / layout.CONFIG, (0, 0))
    assert command.main([str(tmp_path)]) == 3
    assert 'sft: failed' in capsys.readouterr().out


def test_json_for_machines(tmp_path, capsys):
    made = Made(tmp_path).steps(2).beat(doing='failed').checkpoint(2, 7, 5.0)
    (made.path / 'metrics.jsonl').write_text('{"step": 2, "train/loss": "NaN"}\n')
    assert command.main([str(tmp_path), '--json']) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found['run'], found['healthy']) == (str(tmp_path), False)
    (stage,) = found['stages']
    assert (stage['name'], stage['state'], stage['step']) == ('sft', 'failed', 4)
    assert stage['checkpoints'] == [{'step': 2, 'bytes': 7, 'time': 5.0}]
    assert stage['metrics'] == {'loss': 'NaN'}
    assert stage['processes'][0]['doing'] == 'failed'
    names = {field.name for field in dataclasses.fields(status.Stage)}
    assert stage.keys() == names | {'healthy'}


def test_it_watches_until_it_is_interrupted(tmp_path, capsys, monkeypatch):
    Made(tmp_path).done()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, 'sleep', sleep)
    assert command.main([str(tmp_path), '--watch', '7']) == 0
    assert slept == [7.0] * 3
    assert capsys.readouterr().out.count('sft: done') == 3


def test_errors_are_a_line(tmp_path):
    def line(path):
        return micro.error(command.main, [str(path)])

    assert line(tmp_path / 'nothing').startswith(f'Error: no run at {tmp_path}/nothing')
    assert line(tmp_path) == (
        f'Error: {tmp_path} is no run: no stage in it has a config.json; name the '
        'directory of config.run, such as runs/tiny.'
    )
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    assert 'is no run' in line(tmp_path)
    made = Made(tmp_path / 'run').steps(2)
    (made.path / 'metrics.jsonl').write_text('nonsense\n{"step": 2}\n')
    assert f'{made.path}/metrics.jsonl, line 1 is no JSON' in line(tmp_path / 'run')
    (made.path / 'config.json').write_text('{')
    assert f'{made.path}/config.json is not JSON' in line(tmp_path / 'run')


def test_nothing_heavy_is_imported():
    code = (
        'import sys\n'
        'from beaver_jax.status import __main__\n'
        "heavy = {'jax', 'numpy', 'orbax', 'tensorboardX', 'ml_collections'}\n"
        'print(sorted(heavy & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (-1, '0 s'),
        (0.9, '0 s'),
        (45, '45 s'),
        (200, '3 min 20 s'),
        (7500, '2 h 5 min'),  # 2·3600 + 5·60
        (7200, '2 h'),
        (97200, '1 d 3 h'),  # 27 h
    ],
)
def test_durations(seconds, text):
    assert shown.duration(seconds) == text


@pytest.mark.parametrize(
    ('count', 'text'), [(12, '12 B'), (3.5e7, '35.0 MB'), (1.24e9, '1.2 GB')]
)
def test_sizes(count, text):
    assert shown.size(count) == text
