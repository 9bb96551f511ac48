"""When the launcher of TPU pods starts a command again, and when it ends."""

import os
import signal
import threading

import pytest

from launch import tpu_pod
from launch import tpu_slice
from tests.launch import cloud

OPTIONS = ('--name=beaver', '--zone=z', '--type=t', '--version=v', '--poll=0')
COMMAND = ['--config=c.py', '--config.run=runs/a']


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """Launches on a stand-in; what `_streamed` returns is told, or done."""

    def run(there, *codes, options=(), command=COMMAND):
        ends, started = list(codes), []

        def streamed(commands, text):
            started.append(commands[0])
            end = ends.pop(0)
            return end() if callable(end) else end

        monkeypatch.setattr(tpu_slice, 'Gcloud', lambda dry_run: there)
        monkeypatch.setattr(tpu_pod, '_streamed', streamed)
        monkeypatch.setattr(tpu_pod, 'archive', lambda file: file.touch())
        parsed = tpu_pod.parser().parse_args([*OPTIONS, *options])
        try:
            return tpu_pod.launch(parsed, command)
        finally:
            run.started = [x for line in started for x in line if 'command=' in x]

    return run


def test_a_preempted_run_is_started_again_on_a_new_slice(launch):
    states = ['READY', 'PREEMPTED', 'PREEMPTED', 'READY']
    there = cloud.Cloud(describe=states)
    assert launch(there, 255, 0) == 0
    assert [x for x in there.changes if x not in ('ssh', 'scp')] == ['delete', 'create']


def interrupted(number):
    """A run that ends when the launcher is told to."""

    def end():
        before = threading.enumerate()
        os.kill(os.getpid(), number)
        for thread in set(threading.enumerate()) - set(before):
            thread.join(10)
        return 143

    return end


def test_what_a_user_stops_is_not_started_again(launch):
    # The slice is preempted while the run ends.
    there = cloud.Cloud(describe=['READY', 'PREEMPTED'])

    with pytest.raises(tpu_pod.Stopped, match='start the same command again'):
        launch(there, interrupted(signal.SIGINT))
    assert len(launch.started) == 1
    assert {'delete', 'create'}.isdisjoint(there.calls)


def test_a_host_that_is_gone_cannot_be_asked_to_stop(launch, capsys):
    there = cloud.Cloud(describe=['READY'], ssh=[None, None, cloud.failed('no host')])

    with pytest.raises(tpu_pod.Stopped):
        launch(there, interrupted(signal.SIGTERM))
    assert 'no host' in capsys.readouterr().out
