"""A process's place among others, from options and from the environment."""

import importlib.util

import pytest

from beaver_jax import distributed

ALL = ['--coordinator=host:8476', '--processes=2', '--process=1']


def test_options_are_taken_out_of_the_command_line():
    place, rest = distributed.options(['--config=a.py', *ALL, '--config.x=1'], {})
    assert place == distributed.Place('host:8476', 2, 1)
    assert rest == ['--config=a.py', '--config.x=1']
    apart = ['--coordinator', '[::1]:9', '--processes', '3', '--process', '0']
    assert distributed.options(apart, {}) == (distributed.Place('[::1]:9', 3, 0), [])


def test_options_count_over_the_environment():
    environ = {
        'BEAVER_JAX_COORDINATOR': 'host:1',
        'BEAVER_JAX_PROCESSES': '4',
        'BEAVER_JAX_PROCESS': '3',
    }
    assert distributed.options([], environ)[0] == distributed.Place('host:1', 4, 3)
    place, _ = distributed.options(['--process=2'], environ)
    assert place == distributed.Place('host:1', 4, 2)


def test_nothing_said_is_left_to_jax_and_one_process_is_alone():
    assert distributed.options(['--config=a.py'], {}) == (None, ['--config=a.py'])
    place, _ = distributed.options(['--processes=1'], {})
    assert place is not None
    assert place.processes == 1


@pytest.mark.parametrize(
    'argv, message',
    [
        (
            ['--processes=2'],
            '--processes=2 without --coordinator and --process; give all three to '
            'every process, or none where JAX finds the processes itself (TPU pods, '
            'Slurm, Open MPI, Kubernetes).',
        ),
        (['--coordinator=h:1'], '--coordinator=h:1 without --processes and --process;'),
        ([*ALL[:2], '--process=2'], '--process=2 is not among --processes=2; they'),
        ([*ALL[:2], '--process=-1'], "--process='-1' is no whole number."),
        ([ALL[0], '--processes=0', ALL[2]], '--processes=0; must be at least 1.'),
        ([ALL[0], '--processes=two', ALL[2]], "--processes='two' is no whole number."),
        (['--coordinator=host', *ALL[1:]], "--coordinator='host' is not HOST:PORT;"),
        (['--coordinator=host:0', *ALL[1:]], "--coordinator='host:0' is not HOST:PORT"),
        (['--process'], '--process has no value; write --process=VALUE.'),
    ],
)
def test_options_that_do_not_fit_are_told_at_once(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        distributed.options(argv, {})
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f'Error: {message}')


SLURM = dict.fromkeys(('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID'), '7')
SLURM |= {'SLURM_LOCALID': '0'}
KUBERNETES = {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '0'}
NO_TPU = {'TPU_SKIP_MDS_QUERY': '1'}


@pytest.mark.parametrize(
    'environ, modules, found',
    [
        (NO_TPU, (), ''),
        (NO_TPU | SLURM | {'SLURM_NTASKS': '2'}, (), 'slurm'),
        (NO_TPU | SLURM | {'SLURM_NTASKS': '1'}, (), ''),
        # A batch script is no step: it has tasks, and no place among them.
        (NO_TPU | {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2'}, (), ''),
        (NO_TPU | {'OMPI_COMM_WORLD_SIZE': '2'}, (), 'ompi'),
        ({}, ('libtpu',), 'tpu'),
        ({}, (), ''),
        (NO_TPU, ('libtpu',), ''),
        ({'JAX_PLATFORMS': 'cpu'}, ('libtpu',), ''),
        (NO_TPU | {'TPU_WORKER_HOSTNAMES': 'a,b'}, ('libtpu',), 'tpu'),
        (NO_TPU | {'TPU_WORKER_HOSTNAMES': 'localhost'}, ('libtpu',), ''),
        (NO_TPU | {'MEGASCALE_NUM_SLICES': '2'}, ('libtpu',), 'tpu'),
        (NO_TPU | KUBERNETES, ('kubernetes',), 'kubernetes'),
        (NO_TPU | KUBERNETES, (), ''),
    ],
)
def test_what_started_the_processes(environ, modules, found, monkeypatch):
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: name if name in modules else None
    )
    assert distributed._cluster(environ) == found


def test_alone_everything_is_at_once():
    def act(number):
        return 2 * number

    assert distributed.by_first(act, 4) == 8
    distributed.barrier('nobody else')
    with distributed.joined(None):
        pass
