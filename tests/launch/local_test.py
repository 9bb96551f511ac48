"""Several processes on this machine: their devices, output, ends and signals."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import local


def test_fake_devices_are_added_to_the_flags_of_each():
    first, second = local.places(2, 4, {'XLA_FLAGS': '--other', 'HOME': '/h'})
    assert (first['BEAVER_JAX_PROCESS'], second['BEAVER_JAX_PROCESS']) == ('0', '1')
    assert first['BEAVER_JAX_PROCESSES'] == '2'
    flags = '--other --xla_force_host_platform_device_count=4'
    assert first['XLA_FLAGS'] == second['XLA_FLAGS'] == flags
    assert (first['JAX_PLATFORMS'], first['HOME']) == ('cpu', '/h')


def test_gpus_are_shared_out():
    found = local.places(2, 0, {'CUDA_VISIBLE_DEVICES': '4,5,6,7'})
    assert [one['CUDA_VISIBLE_DEVICES'] for one in found] == ['4,5', '6,7']


@pytest.mark.parametrize('names, count', [('0,1,2', 3), ('', 0)])
def test_gpus_that_are_no_equal_shares(names, count):
    with pytest.raises(local.LaunchError, match=f'^{count} GPUs are no equal shares'):
        local.places(2, 0, {'CUDA_VISIBLE_DEVICES': names})


def test_a_mistaken_command_line_is_told_in_a_line(capsys):
    assert re.match('Error: .* use at least 1', error(['--processes=0', '--', 'x']))
    with pytest.raises(SystemExit):
        local.main(['--processes=2'])
    assert 'write the command after --' in capsys.readouterr().err


def error(argv):
    with pytest.raises(SystemExit) as caught:
        local.main(argv)
    return caught.value.code


def children(*programs):
    return [
        subprocess.Popen(
            [sys.executable, '-c', program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for program in programs
    ]


def test_lines_begin_with_the_number_of_their_process(capfd):
    assert local.watch(children('print("a\\nb")', 'print("c")')) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ['[0] a', '[0] b', '[1] c']
    assert lines.index('[0] a') < lines.index('[0] b')


def test_one_that_fails_ends_the_others():
    waits = 'import time\ntime.sleep(60)'
    deaf = f'import signal\nsignal.signal(15, signal.SIG_IGN)\n{waits}'
    begun = time.monotonic()
    running = children(waits, 'raise SystemExit(3)', deaf)
    assert local.watch(running, grace=0.3) == 3
    assert time.monotonic() - begun < 20
    assert [one.returncode for one in running] == [-15, 3, -9]


def test_signals_are_passed_on(capfd):
    # Each tells its parent's group nothing: only what is passed on reaches it.
    program = (
        'import os, signal, time\n'
        'signal.signal(15, lambda *_: (print("asked"), os._exit(5)))\n'
        'print("ready", flush=True)\n'
        'time.sleep(60)'
    )
    running = children(program, program)
    # Once both say that they are ready, which `watch` prints.
    asker = (
        'import os, sys, time\ntime.sleep(1.5)\n'
        f'os.kill({os.getpid()}, {int(signal.SIGTERM)})'
    )
    with subprocess.Popen([sys.executable, '-c', asker]):
        assert local.watch(running) == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert [one.returncode for one in running] == [5, 5]


WAITS = 'import time\ntime.sleep(60)'


def test_a_signal_while_processes_are_started_reaches_all_of_them():
    running = []

    def starting():
        for _ in range(2):
            running.extend(children(WAITS))
            os.kill(os.getpid(), signal.SIGTERM)
            yield running[-1]

    assert local.watch(starting()) == 128 + 15
    # No more are started then.
    assert [one.returncode for one in running] == [-15]


def test_one_that_cannot_be_started_ends_the_others(monkeypatch):
    running, start = [], subprocess.Popen

    def popen(*args, **keywords):
        if running:
            raise OSError('no memory')
        running.append(start(*args, **keywords))
        return running[0]

    monkeypatch.setattr(subprocess, 'Popen', popen)
    options = ['--processes=2', '--fake_devices=1', '--module=timeit']
    with pytest.raises(OSError, match='no memory'):
        local.main([*options, '--', WAITS])
    assert running[0].wait(20) == -9
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
