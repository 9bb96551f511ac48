"""Servers and runs that tests share."""

from collections.abc import Iterator
import pathlib

import pytest

from tests import compiling
from tests import micro
from tests.serve import small
from tests.system import server


@pytest.fixture(scope='session')
def paths(tmp_path_factory):
    """Directories of models by name."""
    root = tmp_path_factory.mktemp('models')
    slow = {
        'embed_dim': 256,
        'num_layers': 4,
        'num_heads': 8,
        'num_kv_heads': 4,
        'head_dim': 32,
        'mlp_dim': 1024,
    }
    return {
        'talker': server.talker(root / 'talker'),
        'slow': server.talker(root / 'slow', **slow),
        'author': server.author(root / 'author'),
        'reward': small.score_model(root / 'reward', 'reward', max_positions=512),
        'cost': small.score_model(root / 'cost', 'cost', 2, max_positions=512),
    }


@pytest.fixture(scope='session')
def start(paths, tmp_path_factory):
    """Starts servers of a model, or of several by name; they end with the tests."""
    started = []

    def begin(model, *others, compiled=compiling.QUICKLY, **options):
        log = tmp_path_factory.mktemp('server') / 'log'
        served = [f'talker={paths[model]}', *(f'{one}={paths[one]}' for one in others)]
        started.append(server.Server(served, log, compiled, **options))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


@pytest.fixture(scope='session')
def small_server(start, paths):
    """Two slots, two places to wait, long answers, and a token."""
    return start(
        'slow',
        token='BEAVER_TEST_TOKEN',
        reward=paths['reward'],
        cost=paths['cost'],
        slots=2,
        queue=2,
        prompts=1,
        prompt_tokens=64,
        answer_tokens=2000,
        choices=4,
        body_bytes=50_000,
    )


@pytest.fixture(scope='session')
def one_device(
    chain: pathlib.Path, configs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[micro.Background]:
    """The chain again, on one device, in a copy of its world."""
    run = tmp_path_factory.mktemp('one_device') / 'run'
    background = micro.Background(configs, run, chain / 'world')
    yield background
    background.stop()
