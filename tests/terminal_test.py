"""What an end by Ctrl-C looks like, and one of whoever reads the output."""

import os
import signal
import subprocess
import sys

import pytest

from beaver_jax import terminal

INTERRUPTED = """
import os, signal
from beaver_jax import terminal
with terminal.errors_in_a_line(ValueError):
    os.kill(os.getpid(), signal.SIGINT)
    input()
"""
PRINTS = """
import sys, time
from beaver_jax import terminal
with terminal.Progress('sft', 3, every=0) as progress:
    for step in range(1, 4):
        time.sleep(0.1)
        progress.update(step, {})
print('all', file=sys.stderr)
"""


@pytest.mark.parametrize('traceback', ['', '1'])
def test_ctrl_c_is_one_line_and_an_end_by_sigint(traceback):
    done = subprocess.run(
        [sys.executable, '-c', INTERRUPTED],
        env=os.environ | {terminal.TRACEBACK: traceback},
        stderr=subprocess.PIPE,
        text=True,
    )
    # So that a loop of a shell ends, too.
    assert done.returncode == -signal.SIGINT
    if traceback:
        assert 'in <module>' in done.stderr
    else:
        assert done.stderr == 'Interrupted.\n'


def test_progress_goes_on_where_nobody_reads_it():
    run = subprocess.Popen(
        [sys.executable, '-c', PRINTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdout.close()
    assert run.stderr.read() == b'all\n'
    assert run.wait() == 0
