"""Two processes of four devices are one of eight, killed in the middle or not."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from beaver_jax import heartbeats
from beaver_jax import metrics
from tests import micro

STAGES = ('sft', 'reward', 'cost', 'ppo_lag')


def launch(argv, *, module='beaver_jax.train'):
    """Two processes of four devices each, through the launcher."""
    options = ['--processes=2', '--fake_devices=4', f'--module={module}']
    return subprocess.Popen(
        [sys.executable, 'launch/local.py', *options, '--', *argv],
        cwd=micro.ROOT,
        env=os.environ | {'PYTHONPATH': str(micro.ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(running):
    output, _ = running.communicate(timeout=1200)
    assert running.returncode == 0, output
    return output


def command(run, world=None):
    if world is not None:
        shutil.copytree(world, run / 'world')
    changes = {'run': run, 'iterations': 3}
    return micro.arguments(CONFIGS, 'ppo_lag', changes)


CONFIGS = pathlib.Path()
# Adam makes a whole step of what is left of a gradient that is nearly 0, and that is
# rounding, which another order of sums changes. Below this it makes a small one.
EPS = 1e-3


@pytest.fixture(scope='module', autouse=True)
def folder(tmp_path_factory):
    global CONFIGS
    few = {
        name: {'steps': 3, 'checkpoint.every': 1, 'optimizer.eps': EPS}
        for name in STAGES[:3]
    }
    few['ppo_lag'] = {'actor_optimizer.eps': EPS, 'critic_optimizer.eps': EPS}
    CONFIGS = micro.write_configs(tmp_path_factory.mktemp('c') / 'configs', few)


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """The chain in one process."""
    run = tmp_path_factory.mktemp('one') / 'run'
    micro.finished(micro.process('beaver_jax.train', command(run), devices=8))
    return run


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """The chain in two processes, which make its world as well."""
    run = tmp_path_factory.mktemp('two') / 'run'
    log = finished(launch(command(run)))
    return run, log


def test_the_world_is_that_of_one_process(one, two):
    files = [
        {path.name: path.read_bytes() for path in (run / 'world').glob('*.json*')}
        for run in (one, two[0])
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize('stage', STAGES)
def test_metrics_are_those_of_one_process(stage, one, two):
    rows, same = (metrics.read(run / stage / metrics.METRICS) for run in (one, two[0]))
    assert len(rows) == len(same) == 3
    for row, other in zip(rows, same, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            # Sums in another order: about 1e-7 of the largest term.
            assert other[name] == pytest.approx(row[name], rel=1e-5, abs=2e-6), name
    found = [micro.summary(run, stage) for run in (one, two[0])]
    assert found[1]['data'] == found[0]['data']
    for name, value in found[0]['metrics'].items():
        assert found[1]['metrics'][name] == pytest.approx(value, rel=1e-5, abs=2e-6)


def test_answers_are_those_of_one_process(one, two):
    lines, same = (
        (run / 'evaluate' / 'samples.jsonl').read_text().splitlines()
        for run in (one, two[0])
    )
    for line, other in zip(lines, same, strict=True):
        answers, others = (json.loads(x)['answers'] for x in (line, other))
        for name, answer in answers.items():
            assert others[name]['text'] == answer['text']
            reward = pytest.approx(answer['reward'], rel=1e-5, abs=2e-6)
            assert others[name]['reward'] == reward
            assert ('kl' in answer) == (name != 'sft')
            if 'kl' in answer:
                assert others[name]['kl'] == pytest.approx(answer['kl'], abs=1e-4)


def test_score_models_are_measured_as_in_one_process(one, two):
    whole, same = (
        json.loads((run / 'evaluate' / 'results.json').read_text())['score_models']
        for run in (one, two[0])
    )
    assert whole.keys() == same.keys() == {'reward', 'costs.harm'}
    for name, told in whole.items():
        assert same[name]['pairs'] == told['pairs'] > 100
        values = pytest.approx(told['values'], rel=1e-5, abs=1e-6)
        assert same[name]['values'] == values


def test_an_evaluation_has_no_slowest_process(two):
    beats = heartbeats.read(two[0] / 'evaluate')
    assert len(beats) == 2 and heartbeats.concerns(beats, beats[0].time) == {}


def test_the_first_process_alone_speaks(two):
    run, log = two
    for said in ('ppo_lag needs', 'compiled', 'done in', 'report/index.html'):
        assert [x[:4] for x in log.splitlines() if said in x and x[:1] == '['], said
        assert {x[:4] for x in log.splitlines() if said in x} == {'[0] '}, said
    assert log.count(f'{run}/report/index.html') == 1


def test_a_killed_run_equals_one_left_alone(two, tmp_path):
    run, alone = tmp_path / 'run', two[0]
    argv = command(run, alone / 'world')
    for stage, victim in (('sft', 1), ('ppo_lag', 0)):
        running = launch(argv)
        micro.wait_for_lines(running, run / stage / metrics.METRICS, 2)
        children = micro.children(running.pid)
        os.kill(children[victim], signal.SIGKILL)
        log, _ = running.communicate(timeout=300)
        # The other one ended as well, and soon.
        assert running.returncode, log
        assert not any(pathlib.Path(f'/proc/{child}').exists() for child in children)
    log = finished(launch(argv))
    assert f'{run}/ppo_lag: resumed after step' in log
    for stage in STAGES:
        mine, other = (path / stage / metrics.METRICS for path in (run, alone))
        assert mine.read_bytes() == other.read_bytes(), stage
        exported = [micro.weights(path / stage / 'model') for path in (run, alone)]
        assert exported[0] == exported[1], stage
    for name in ('results.json', 'samples.jsonl'):
        mine, other = (path / 'evaluate' / name for path in (run, alone))
        assert mine.read_bytes() == other.read_bytes(), name


def test_export_has_one_writer(two, tmp_path):
    out = tmp_path / 'out'
    log = finished(
        launch([str(two[0] / 'sft'), f'--out={out}'], module='beaver_jax.export')
    )
    assert log.count(f'{out}: the model of') == 1
    assert micro.weights(out) == micro.weights(two[0] / 'sft' / 'model')
    # What is there is refused by both, and neither waits for the other.
    again = launch([str(two[0] / 'sft'), f'--out={out}'], module='beaver_jax.export')
    log, _ = again.communicate(timeout=300)
    assert again.returncode == 1
    assert f'[0] Error: --out={out} holds a model' in log


def test_evaluation_writes_once(two, tmp_path):
    run = tmp_path / 'compared'
    changes = {
        'run': run,
        'models': f'sft={two[0] / "sft"}',
        'data.prompts_test': two[0] / 'world' / 'prompts_test.jsonl',
        'data.reward_pairs_test': two[0] / 'world' / 'pairs_test.jsonl',
        'data.cost_pairs_test': '',
        'data.world': False,
        'reward.init': two[0] / 'reward',
        'costs.harm.init': two[0] / 'cost',
        'costs.harm.normalize': False,  # as in training
    }
    argv = micro.arguments(CONFIGS, 'evaluate', changes)
    log = finished(launch(argv, module='beaver_jax.evaluate'))
    assert log.count('held-out prompts') == 1
    results, before = (
        json.loads((path / 'evaluate' / 'results.json').read_text())['models']['sft']
        for path in (run, two[0])
    )
    assert results == {name: before[name] for name in results}
    kept = micro.snapshot(run)
    log = finished(launch(argv, module='beaver_jax.evaluate'))
    assert log.count('holds this evaluation already') == 1
    assert log.count('held-out prompts') == 1
    assert micro.snapshot(run) == kept


def test_one_process_that_fails_ends_the_other(two, tmp_path):
    run = tmp_path / 'run'
    argv = command(run, two[0] / 'world')
    (run / 'sft' / 'checkpoints').mkdir(parents=True)
    # What only the first process does, and cannot.
    (run / 'sft' / 'metrics.jsonl').mkdir()
    begun = time.monotonic()
    running = launch(argv)
    log, _ = running.communicate(timeout=400)
    assert running.returncode == 1
    assert time.monotonic() - begun < 300
    assert '[0] Error: ' in log


def test_sigterm_to_one_process_saves_in_all(two, tmp_path):
    run, alone = tmp_path / 'run', two[0]
    # So many steps that the signal comes in time.
    steps = {'steps': 300, 'checkpoint.every': 1000}
    configs = micro.write_configs(tmp_path / 'configs', {'sft': steps})
    shutil.copytree(alone / 'world', run / 'world')
    argv = micro.arguments(configs, 'sft', {'run': run})
    running = launch(argv)
    micro.wait_for_lines(running, run / 'sft' / metrics.METRICS, 1)
    os.kill(micro.children(running.pid)[1], signal.SIGTERM)
    log, _ = running.communicate(timeout=400)
    assert running.returncode == 143, log
    (said,) = [line for line in log.splitlines() if 'stopped by a signal' in line]
    found = re.fullmatch(
        r'\[0\] .*/sft: stopped by a signal after step (\d+) of 300; the checkpoint of '
        r'step \1 is saved\. Start the same command again to go on\.',
        said,
    )
    assert found, said
    beats = heartbeats.read(run / 'sft')
    assert [(beat.process, beat.doing) for beat in beats] == [
        (0, heartbeats.ENDED),
        (1, heartbeats.ENDED),
    ]
    # Broken in one process's part, the checkpoint is used by neither.
    for file in (run / 'sft' / 'checkpoints').glob('*/state/**/d/*'):
        file.write_bytes(file.read_bytes()[:-40])
    running = launch(argv)
    log, _ = running.communicate(timeout=400)
    assert running.returncode == 1
    assert 'every checkpoint is broken' in log
