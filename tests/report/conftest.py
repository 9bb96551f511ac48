"""Runs to report."""

import pytest

from beaver_jax import report
from tests.report import made


@pytest.fixture
def run(tmp_path):
    """A whole run, small enough to reckon by hand."""
    return made.make_run(tmp_path / 'runs' / 'tiny')


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    """The same run with its report; tests only read it."""
    run = made.make_run(tmp_path_factory.mktemp('reported') / 'tiny')
    report.write(run)
    return run


@pytest.fixture
def unfinished(tmp_path):
    """A run of one stage that is still under way."""
    run = tmp_path / 'runs' / 'new'
    made.write_lines(run / 'sft' / 'metrics.jsonl', [{'step': 1, 'train/loss': 2.0}])
    with (run / 'sft' / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 2, "tra')
    return run
