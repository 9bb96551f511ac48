"""Functions in processes of their own: order, errors, and how the processes end."""

import functools
import itertools
import operator
import os
import subprocess
import sys
import time

import pytest

from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.data import workers
from tests import micro


def gone(pid):
    """Whether a process has ended, or does so within seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize('count', [0, 1, 3])
def test_results_are_in_order(count):
    items = [*range(40)]
    assert list(workers.mapped(operator.neg, items, count)) == [-x for x in items]


def test_there_are_so_many_processes_as_have_work():
    def pids(items, count):
        return set(workers.mapped(eval, ['__import__("os").getpid()'] * items, count))

    here = {os.getpid()}
    assert pids(9, 0) == here
    # One item is not worth a process.
    assert pids(1, 4) == here
    assert pids(0, 4) == set()
    assert len(pids(2, 4) - here) == 2
    assert len(pids(9, 2) - here) == 2


@pytest.mark.parametrize('count', [0, 2])
def test_few_items_are_read_ahead(count):
    read = itertools.count()
    items = (next(read) for _ in range(10**9))
    results = workers.mapped(operator.neg, items, count)
    assert [next(results) for _ in range(50)] == [-i for i in range(50)]
    assert next(read) <= 50 + 2 * 2
    results.close()


@pytest.mark.parametrize('count', [0, 2])
def test_an_error_comes_in_its_place(count):
    results = workers.mapped(functools.partial(operator.floordiv, 4), [4, 2, 0], count)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ZeroDivisionError, match='by zero'):
        next(results)


def test_an_error_says_where_it_was():
    numbers = [0, 1]
    results = workers.mapped(functools.partial(operator.floordiv, 4), numbers, 2)
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    (note,) = caught.value.__notes__
    assert note.startswith('In a worker process:\nTraceback')


def test_a_process_that_ended_is_told():
    # As if something outside had done it.
    with pytest.raises(
        ChildProcessError, match=r'ended \(status 3\).*Lower config\.data\.workers'
    ):
        list(workers.mapped(os._exit, [3, 3], 2))


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match='workers=-1; must not be negative'):
        list(workers.mapped(operator.neg, [1], -1))


@pytest.mark.parametrize('end', ['close', 'item', 'interrupt'])
def test_the_processes_end_with_the_results(end):
    def items():
        yield from ['__import__("os").getpid()'] * 8
        raise KeyboardInterrupt if end == 'interrupt' else LookupError('a bad row')

    results = workers.mapped(eval, items(), 2)
    pids = {next(results) for _ in range(4)}
    if end == 'close':
        results.close()
    else:
        with pytest.raises(KeyboardInterrupt if end == 'interrupt' else LookupError):
            pids.update(results)
    assert len(pids) == 2
    assert all(map(gone, pids))


KILLED = """
import os
from beaver_jax.data import workers
results = workers.mapped(eval, ['__import__("os").getpid()'] * 100, 2)
print(next(results), next(results), flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_processes_of_a_program_that_is_killed_end_too(tmp_path):
    # A program without a guard of __main__, in a folder with other files: none of it
    # is run in the processes.
    (tmp_path / 'program.py').write_text(KILLED)
    (tmp_path / 'pickle.py').write_text('raise SystemExit("a file of the user")')
    done = subprocess.run(
        [sys.executable, '-P', 'program.py'],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(micro.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert done.stderr == ''
    pids = {int(pid) for pid in done.stdout.split()}
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_the_process_of_a_tokenizer_does_not_import_jax():
    # So it starts in a second.
    modules = (
        f'(__import__({tokenizer_lib.__name__!r}), set(__import__("sys").modules))'
    )
    imported, _ = workers.mapped(eval, [f'{modules}[1]', '1'], 1)
    assert {'transformers', tokenizer_lib.__name__} <= imported
    assert not {'jax', 'torch', 'tensorflow'} & imported
