"""`python -m beaver_jax.data`."""

import json

import matplotlib.image
import numpy as np
import pytest

from beaver_jax.data import __main__ as command
from beaver_jax.data import encoding
from beaver_jax.data import rows as rows_lib
from tests import micro


def card(path):
    return json.loads((path / 'data_card.json').read_text())


def test_a_card_and_histograms_before_anything_is_trained(configs, tmp_path, capsys):
    # No SFT model is there yet: its tokenizer will be that of the world.
    command.main(micro.arguments(configs, 'cost', {'run': tmp_path / 'run'}))
    out = tmp_path / 'run' / 'cost' / 'data'
    found = card(out)
    rows = found['train']['rows']
    assert rows == found['counts']['kept'] > 7000
    labels = found['train']['labels']
    assert set(labels['response']) == {'safe', 'unsafe'}
    assert sum(labels['safer response'].values()) == rows
    printed = capsys.readouterr().out
    assert 'rows read' in printed
    assert 'response: unsafe' in printed
    assert f'{out}: data_card.json and histograms' in printed
    for name in ('prompt', 'response', 'prompt_and_response'):
        pixels = matplotlib.image.imread(out / f'{name}_lengths.png')
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


@pytest.mark.parametrize('stage', ['sft', 'reward', 'ppo_lag'])
def test_rows_of_any_stage(chain, configs, few_rows, tmp_path, stage):
    starts = {
        'sft': {'model.tokenizer': chain / 'sft' / 'model'},
        'reward': {'model.init': chain / 'sft'},
        'ppo_lag': {'actor.init': chain / 'sft'},
    }
    more = {'run': tmp_path / 'run', **few_rows, **starts[stage]}
    out = tmp_path / 'out'
    command.main([*micro.arguments(configs, stage, more), f'--out={out}'])
    found = card(out)
    assert found['counts']['read'] == 96
    assert 0 < found['train']['rows'] <= found['counts']['kept']
    assert ('response' in found['tokens']) == (stage != 'ppo_lag')
    assert not (tmp_path / 'run' / stage).exists()


def test_workers_change_nothing(chain, configs, few_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, '_AT_ONCE', 20)
    changes = {'run': tmp_path / 'run', **few_rows, 'model.init': chain / 'sft'}
    written = []
    for workers in (0, 2):
        argv = micro.arguments(configs, 'reward', changes | {'data.workers': workers})
        command.main([*argv, f'--out={tmp_path / str(workers)}'])
        written.append((tmp_path / str(workers) / 'data_card.json').read_bytes())
    assert written[0] == written[1]


def test_rows_that_are_dropped_can_be_found(chain, configs, tmp_path, capsys):
    rows = [{'prompt': 'a', 'response': 'b'}] * 20 + ['[]', {'prompt': 'c'}]
    file = micro.write_rows(tmp_path / 'rows.jsonl', rows)
    changes = {
        'run': tmp_path,
        'data.world': False,
        'data.sft': file,
        'data.test_share': 0.0,
        'model.tokenizer': chain / 'sft' / 'model',
    }
    command.main(micro.arguments(configs, 'sft', changes))
    problems = card(tmp_path / 'sft' / 'data')['problems']
    assert problems['not_an_object'].startswith(f'{file}:21: ')
    assert problems['bad_field'].startswith(f'{file}:22: ')
    printed = capsys.readouterr().out
    for reason, problem in problems.items():
        assert f'{rows_lib.COUNTED[reason]}, the first: {problem}' in printed


def test_a_run_stores_its_card(chain):
    found = card(chain / 'cost')
    assert found['train']['rows'] == found['counts']['kept']
    assert found['counts']['examples'] <= found['counts']['kept']
    assert found['test']['rows'] > 0
    assert found['tokens']['response']['max'] > 1


def test_errors_are_one_line(chain, configs, tmp_path):
    changes = {'data.world': False, 'model.tokenizer': chain / 'sft' / 'model'}
    argv = micro.arguments(configs, 'sft', {'run': tmp_path} | changes)
    line = micro.error(command.main, [*argv, '--config.data.sft=missing.jsonl'])
    assert "No file 'missing.jsonl'" in line
    baseless = [*argv, '--config.data.sft=', '--config.model.tokenizer=']
    file = chain / 'world' / 'sft.jsonl'
    line = micro.error(command.main, [*baseless, f'--config.data.sft={file}'])
    assert line.startswith('Error: config.base is empty; name the model directory')
    line = micro.error(command.main, [*argv, '--config.data.workers=-1'])
    assert line == 'Error: config.data.workers=-1; must not be negative.'
