"""When the launcher of TPU pods starts a command again, and when it ends."""

import os
import shlex
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


def test_a_cloud_without_room_is_asked_again(launch, capsys):
    there = cloud.Cloud(
        describe=['READY', 'PREEMPTED', 'PREEMPTED', None, 'READY'],
        create=[cloud.failed('no room'), None],
    )
    assert launch(there, 255, 0) == 0
    made = [x for x in there.changes if x not in ('ssh', 'scp')]
    assert made == ['delete', 'create', 'create']
    assert 'not started: no room' in capsys.readouterr().out


def test_restarts_are_counted_and_the_last_tells_why_it_failed(launch):
    there = cloud.Cloud(
        describe=['READY', 'PREEMPTED', 'PREEMPTED', None],
        create=[cloud.failed('no room')],
    )
    with pytest.raises(tpu_slice.PodError, match='no room'):
        launch(there, 255, options=['--restarts=3'])
    assert there.calls.count('create') == 3


def test_what_fails_at_the_first_start_is_told_at_once(launch):
    there = cloud.Cloud(create=[cloud.failed('no quota')])
    with pytest.raises(tpu_slice.PodError, match='no quota'):
        launch(there)
    there = cloud.Cloud(describe=['READY'], scp=[cloud.failed('no key')])
    with pytest.raises(tpu_slice.PodError, match='no key'):
        launch(there)
    there = cloud.Cloud(describe=[cloud.failed('no login')])
    with pytest.raises(tpu_slice.PodError, match='no login'):
        launch(there)
    assert there.calls == ['describe']


def test_a_host_that_is_not_reached_yet_is_prepared_again(launch):
    # The first start's two, then the restart's first.
    ssh = [None, None, cloud.failed('connection refused'), None]
    there = cloud.Cloud(describe=['READY', 'PREEMPTED', 'PREEMPTED', 'READY'], ssh=ssh)
    assert launch(there, 255, 0) == 0


def test_a_slice_that_is_lost_while_it_is_prepared_is_made_anew(launch):
    there = cloud.Cloud(
        describe=['READY', 'PREEMPTED', 'PREEMPTED', 'READY'],
        scp=[cloud.failed('no host'), None],
    )
    assert launch(there, 0) == 0
    assert 'delete' in there.calls


def test_a_state_that_cannot_be_read_after_a_run_is_no_end(launch):
    there = cloud.Cloud(describe=['READY', cloud.failed('timeout'), 'READY'])
    assert launch(there, 1, 0) == 0


def test_what_fails_on_a_slice_that_is_ready_is_the_end(launch):
    there = cloud.Cloud(describe=['READY'])
    assert launch(there, 1) == 1


@pytest.mark.parametrize(
    'first, later',
    [
        (['--config.if_exists=overwrite'], ['--config.if_exists=refuse']),
        (['--config.if_exists', 'overwrite'], ['--config.if_exists', 'refuse']),
        (['--config.if_exists=resume'], ['--config.if_exists=resume']),
        (['--config.run', 'overwrite'], ['--config.run', 'overwrite']),
    ],
)
def test_only_the_first_start_overwrites(launch, first, later):
    # What fails before it is no start.
    there = cloud.Cloud(
        describe=['READY', 'PREEMPTED', 'READY'], scp=[cloud.failed('no host'), None]
    )
    assert launch(there, 255, 255, 0, command=[*first, '--config.seed=1']) == 0
    told = zip((first, later, later), launch.started, strict=True)
    assert all(shlex.join(words) in line for words, line in told)
