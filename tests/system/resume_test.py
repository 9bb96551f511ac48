"""A run that is killed, whenever, and started again equals one left alone."""

from collections.abc import Callable
import pathlib
import random
import signal
import subprocess
import time

from tests import micro

STAGES = ('sft', 'cost', 'reward', 'ppo_lag')


def lines(run: pathlib.Path, stage: str) -> int:
    file = run / stage / 'metrics.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0


def saving(run: pathlib.Path, stage: str) -> bool:
    """Whether a checkpoint is half written at this moment."""
    return any((run / stage / 'checkpoints').glob('*.orbax-checkpoint-tmp'))


def kill(running: subprocess.Popen, when: Callable[[], bool], delay: float = 0) -> None:
    """SIGKILL once `when` holds (still, if there is no delay to sleep first)."""
    deadline = time.monotonic() + 200
    while running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
        if not when():
            continue
        time.sleep(delay)
        running.send_signal(signal.SIGSTOP)
        if delay or when():
            break
        running.send_signal(signal.SIGCONT)
    running.kill()
    output, _ = running.communicate()
    assert running.returncode == -signal.SIGKILL, output


def test_a_killed_run_equals_one_left_alone(one_device, tmp_path):
    run = tmp_path / 'run'
    command = one_device.command(run)
    chance = [random.uniform(0, 0.5) for _ in range(3)]
    moments: list[tuple[Callable[[], bool], float]] = [
        (lambda: lines(run, 'sft') >= 3, 0),
        (lambda: saving(run, 'cost'), 0),
        (lambda: lines(run, 'reward') >= 1, chance[0]),
        (lambda: lines(run, 'ppo_lag') >= 2, chance[1]),
        (lambda: lines(run, 'ppo_lag') >= 3 and saving(run, 'ppo_lag'), 0),
        (lambda: (run / 'ppo_lag' / 'summary.json').exists(), chance[2]),
    ]
    for when, delay in moments:
        kill(micro.process('beaver_jax.train', command), when, delay)
    log = micro.finished(micro.process('beaver_jax.train', command))
    assert 'done, nothing to do' in log
    alone = one_device.wait()
    for stage in STAGES:
        for name in ('metrics.jsonl', 'config.json'):
            mine, other = (path / stage / name for path in (run, alone))
            text = mine.read_text().replace(str(run), str(alone))
            assert text == other.read_text(), (stage, name, chance)
        exported = [micro.weights(path / stage / 'model') for path in (run, alone)]
        assert exported[0] == exported[1], (stage, chance)
        found = [micro.summary(path, stage) for path in (run, alone)]
        assert [summary.pop('seconds') > 0 for summary in found] == [True, True]
        memory = [summary.pop('memory') for summary in found]
        assert all(one['peak_process_bytes'] > 0 for one in memory)
        # What XLA plans for a program is the same; what a process held is not.
        assert memory[0]['program_bytes'] == memory[1]['program_bytes']
        assert found[0] == found[1], (stage, chance)
    for name in ('results.json', 'samples.jsonl'):
        mine, other = (path / 'evaluate' / name for path in (run, alone))
        assert mine.read_bytes() == other.read_bytes(), chance
    assert (run / 'report' / 'index.html').is_file()
