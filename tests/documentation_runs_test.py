"""Commands of the pages that take seconds do what the pages say.

Those of `train`, `chat`, `export` and `report` have tests of their own.
"""

import json
import pathlib
import shutil

import pytest

from beaver_jax import plan
from beaver_jax import train
from beaver_jax.data import __main__ as data
from launch import tpu_pod
from tests import documentation


def shown(page: str, program: str, *words: str) -> list[str]:
    """The arguments of the one command of a page with a program and these words."""
    found = [
        command.arguments
        for command in documentation.commands(documentation.ROOT / page)
        if command.program == program and set(words) <= set(command.arguments)
    ]
    assert len(found) == 1, f'{page}: {len(found)} commands'
    return list(found[0])


@pytest.fixture
def runs(chain, tmp_path, monkeypatch) -> pathlib.Path:
    """A copy of a run that is trained, as the pages have it."""
    shutil.copytree(chain, tmp_path / 'runs' / 'mine')
    shutil.copytree(documentation.ROOT / 'configs', tmp_path / 'configs')
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'runs'


def test_the_look_at_rows(runs, tmp_path):
    (runs / 'mine' / 'sft' / 'model').rename(tmp_path / 'DIRECTORY')
    rows = (runs / 'mine' / 'world' / 'pairs_test.jsonl').read_text().splitlines()
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(rows[:40]))
    data.main(shown('docs/data.md', 'beaver_jax.data'))
    card = json.loads((runs / 'local' / 'cost' / 'data' / 'data_card.json').read_text())
    assert card['counts']['read'] == 40


def test_the_plan_of_a_7b_model(tmp_path, monkeypatch):
    # As the page describes it.
    llama = {
        'model_type': 'llama',
        'hidden_size': 4096,
        'num_hidden_layers': 32,
        'num_attention_heads': 32,
        'intermediate_size': 11008,
        'vocab_size': 32000,
    }
    shutil.copytree(documentation.ROOT / 'configs', tmp_path / 'configs')
    (tmp_path / 'DIRECTORY').mkdir()
    (tmp_path / 'DIRECTORY' / 'config.json').write_text(json.dumps(llama))
    monkeypatch.chdir(tmp_path)
    argv = shown('docs/memory.md', 'beaver_jax.plan', '--shapes-only')
    plan.main([*argv, '--json=figures.json'])
    planned = json.loads((tmp_path / 'figures.json').read_text())['plan']
    parts = [
        sum(role[name] for role in planned['roles'])
        for name in ('parameters', 'gradients', 'optimizer', 'cache')
    ]
    figures = ' | '.join(f'{x / 10**9:.2f}' for x in [*parts, planned['held']])
    page = (documentation.ROOT / 'docs' / 'memory.md').read_text()
    table = page.partition('| LLaMA-7B |')[2].partition('| Qwen2-7B |')[0]
    assert f'| 2×4×1 | in full | {figures} |' in table


def test_the_dry_run_of_a_pod(monkeypatch, capsys):
    for name in ('HF_TOKEN', 'WANDB_API_KEY'):
        monkeypatch.setenv(name, 'secret')
    assert tpu_pod.main(shown('launch/README.md', 'launch/tpu_pod.py')) == 0
    told = capsys.readouterr().out
    assert 'queued-resources create beaver' in told
    assert '--config.run=runs/first' in told
    assert 'secret' not in told


def test_the_list_of_keys(monkeypatch, capsys):
    monkeypatch.chdir(documentation.ROOT)
    with pytest.raises(SystemExit) as end:
        train.main(shown('docs/tutorial.md', 'beaver_jax.train', '--help'))
    assert not end.value.code
    assert '--config.multiplier.form=projected' in capsys.readouterr().out
