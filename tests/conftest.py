"""Settings of every test: eight fake CPU devices, no network, strict ranks."""

import gc
import os
import tempfile

from tests import compiling

# Read when jax is first imported, so they stand before that import.
os.environ['JAX_PLATFORMS'] = 'cpu'
# Flags that are given count over those of tests.
os.environ['XLA_FLAGS'] = ' '.join(
    [
        *(f'--{name}={value}' for name, value in compiling.QUICKLY.items()),
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
    ]
)
os.environ['HF_HUB_OFFLINE'] = '1'
# A program that several tests compile, here or in a process that they start, is
# compiled once in a session; once at all, if the variable is set to some directory.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp(prefix='beaver_jax_compiled_')
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
# Programs need not know which lines they come from: nobody looks at them in a profile.
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'

from collections.abc import Iterator
import logging
import pathlib
import shutil

import filelock
import jax
import pytest

from beaver_jax import train
from tests import micro

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Tracing makes many objects, all reachable: looking for garbage seldom saves time.
gc.set_threshold(100_000, 20, 10)

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / 'shared'
GOLDEN = 'golden/safe_rlhf_reference'
# Fixtures of whole runs.
_CHAINS = {'chain', 'one_device'}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--golden',
        metavar='DIR',
        type=lambda text: pathlib.Path(text).resolve(),
        default=None,
        help=f'the golden set; default: ../shared/{GOLDEN}, else tests/{GOLDEN}',
    )
    parser.addoption(
        '--oracle-seed',
        metavar='N',
        type=int,
        default=0,
        help='seed of the enumerable world of tests/oracle_test.py; default: 0',
    )


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption('--golden')
    if given is not None and not (given / 'expected.npz').is_file():
        raise pytest.UsageError(
            f"--golden={given} has no expected.npz; name a golden set's folder."
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Of several processes the first one makes the chains, and has most tests of them.
    items.sort(key=lambda item: not _CHAINS & set(getattr(item, 'fixturenames', ())))


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, 'workerinput'):
        return  # the other processes still compile
    compiled = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
    if compiled.name.startswith('beaver_jax_compiled_'):
        shutil.rmtree(compiled, ignore_errors=True)


@pytest.fixture(autouse=True)
def restore_log() -> Iterator[None]:
    """Commands set up the log of the whole process; a test's ends with the test."""
    loggers = [logging.getLogger(name) for name in ('beaver_jax', 'absl')]
    before = [(log.handlers[:], log.propagate, log.level) for log in loggers]
    yield
    for log, (handlers, propagate, level) in zip(loggers, before, strict=True):
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.fixture(scope='session')
def configs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of the shipped configs with few steps and a very small model."""
    return micro.write_configs(tmp_path_factory.mktemp('micro') / 'configs')


@pytest.fixture(scope='session')
def chain(
    configs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A run in which `train --config=ppo_lag.py` has trained all that it needs.

    On 2×2×2 devices. Tests must not change it. The processes of one `pytest -n` share
    it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if 'PYTEST_XDIST_WORKER' in os.environ else root
    run = root / 'chain' / 'run'
    with filelock.FileLock(root / 'chain.lock'):
        if not (run / 'report' / 'index.html').exists():
            train.main(micro.arguments(configs, 'ppo_lag', {'run': run}))
    return run


@pytest.fixture(scope='session')
def few_rows(
    chain: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Overrides with which a run reads some rows of the chain's world."""
    return micro.rows(chain, tmp_path_factory.mktemp('rows'))


@pytest.fixture(scope='session')
def golden_dir(request: pytest.FixtureRequest) -> pathlib.Path:
    """The directory of the golden set: that of --golden, or the shared one, or ours."""
    given = request.config.getoption('--golden')
    if given is not None:
        return given
    shared = SHARED / GOLDEN
    return shared if shared.is_dir() else ROOT / 'tests' / GOLDEN


@pytest.fixture(scope='session')
def oracle_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the enumerable world, from --oracle-seed."""
    return request.config.getoption('--oracle-seed')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
    """Real data beside the repository, which may not be copied into it."""
    directory = SHARED / 'data'
    if not directory.is_dir():
        pytest.skip(f'real data is not on this machine: there is no {directory}')
    return directory
