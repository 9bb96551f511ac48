"""Tests of what an evaluation that is there is to a new one."""

import json

import ml_collections
import pytest

from beaver_jax.evaluate import earlier
from beaver_jax.stages import directories

DIGESTS = {'policies.a': '1', 'policies.b': '2', 'reward': '3', 'prompts': '4'}
DIGESTS |= {'measures': '1'}


@pytest.fixture
def config(tmp_path):
    """Of a finished evaluation, whose results have DIGESTS."""
    values = {'run': str(tmp_path), 'stage': 'evaluate', 'if_exists': 'resume'}
    values |= {'models': 'a=1,b=2', 'seed': 0}
    config = ml_collections.ConfigDict(values)
    directories.claim(config)
    write(config, {'old': 1, 'digests': DIGESTS})
    return config


def write(config, results):
    file = directories.directory(config) / directories.RESULTS
    file.write_text(json.dumps(results))


@pytest.mark.parametrize(
    ('changes', 'digests', 'standing'),
    [
        ({}, {}, 'same'),
        ({'models': 'b=2,a=1,c=3'}, {'policies.c': '5'}, 'covered'),  # more policies
        ({}, {'policies.c': '5'}, 'covered'),  # likewise, those that a run holds
        ({'cost': 'x'}, {'costs.x': '5'}, 'covered'),  # another cost
        ({'models': 'a=9,b=2'}, {}, 'covered'),  # the same model elsewhere
        ({'models': 'a=1,b=3'}, {'policies.b': '6'}, 'other'),
        ({'seed': 1}, {}, 'other'),
        ({'seed': 1, 'models': 'a=1,b=2,c=3'}, {'policies.c': '5'}, 'other'),
        ({}, {'policies.a': '6'}, 'other'),  # other weights in its place
        ({}, {'prompts': '6'}, 'other'),
        ({'models': 'b=2,a=1,c=3'}, {'policies.a': '6', 'policies.c': '5'}, 'other'),
    ],
)
def test_nothing_is_lost_that_is_not_made_again(
    config, changes, digests, standing, caplog
):
    with config.unlocked():
        for key, value in changes.items():
            config[key] = value
    with caplog.at_level('INFO'):
        found = earlier.find(config, DIGESTS | digests)
    assert found == ({'old': 1, 'digests': DIGESTS}, standing)
    said = [name for name in DIGESTS if name in digests]
    told = f'changed since: {", ".join(said)}'
    assert (told in caplog.text) == bool(said)


def test_one_policy_less_is_another_evaluation(config):
    digests = {name: x for name, x in DIGESTS.items() if name != 'policies.b'}
    assert earlier.find(config, digests).standing == 'other'


@pytest.mark.parametrize(
    'results', [{}, {'digests': {'prompts': '4'}}, {'digests': {'measures': '0'}}]
)
def test_of_what_one_of_another_version_is_nobody_knows(config, results, caplog):
    write(config, results)
    with caplog.at_level('INFO'):
        assert earlier.find(config, DIGESTS).standing == 'other'
    assert 'of another version, so of which models and prompts is' in caplog.text


def test_where_nothing_is_finished_there_is_none(config):
    config.if_exists = 'overwrite'
    assert earlier.find(config, DIGESTS) == ({}, 'none')
    config.if_exists = 'refuse'
    (directories.directory(config) / directories.RESULTS).unlink()
    assert earlier.find(config, DIGESTS) == ({}, 'none')


def test_damaged_results_are_named(config):
    file = directories.directory(config) / directories.RESULTS
    file.write_text('{')
    with pytest.raises(ValueError, match=rf'{file} is not JSON'):
        earlier.find(config, DIGESTS)
