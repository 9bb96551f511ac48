"""Models of checkpoints: of runs that are done, killed, moved, without their data."""

import json
import os
import shutil
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import export
from beaver_jax import metrics
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.stages import inputs
from beaver_jax.stages import outputs
from tests import micro
from tests import tiny

STAGES = ('sft', 'reward', 'cost', 'ppo_lag')


@pytest.fixture(scope='module')
def moved(chain, tmp_path_factory):
    """The chain's run elsewhere: without rows, exported models and summaries."""
    run = tmp_path_factory.mktemp('moved') / 'elsewhere'
    keep = ('checkpoints', 'config.json', 'metrics.jsonl')
    for stage in STAGES:
        for name in keep:
            path = chain / stage / name
            copy = shutil.copytree if path.is_dir() else shutil.copy
            (run / stage).mkdir(parents=True, exist_ok=True)
            copy(path, run / stage / name)
    # What the others start from: config and tokenizer, but no weights.
    shutil.copytree(chain / 'world' / 'tokenizer', run / 'world' / 'tokenizer')
    shutil.copytree(chain / 'sft' / 'model', run / 'sft' / 'model')
    (run / 'sft' / 'model' / 'model.safetensors').unlink()
    return run


def arguments(stage, out, *more):
    return [str(stage), '--out', str(out), *more]


@pytest.mark.parametrize('stage', STAGES)
def test_the_newest_checkpoint_is_what_the_stage_left(stage, chain, moved, tmp_path):
    before = micro.snapshot(moved)
    export.main(arguments(moved / stage, tmp_path / 'out'))
    assert micro.weights(tmp_path / 'out') == micro.weights(chain / stage / 'model')
    assert micro.snapshot(moved) == before
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_step_in_bfloat16_and_in_several_files(chain, moved, tmp_path, capsys):
    options = ('--step', '2', '--dtype', 'bfloat16', '--max_shard_size', '10KB')
    export.main(arguments(moved / 'sft', tmp_path / 'out', *options))
    assert (
        f'{tmp_path}/out: the model of {moved}/sft, step 2' in capsys.readouterr().err
    )
    files = list((tmp_path / 'out').glob('model-*-of-*.safetensors'))
    assert len(files) > 2
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['torch_dtype'] == 'bfloat16'
    _, narrow = hf.load_causal_lm(tmp_path / 'out')
    export.main(arguments(moved / 'sft', tmp_path / 'wide', '--step', '2'))
    _, wide = hf.load_causal_lm(tmp_path / 'wide')
    _, last = hf.load_causal_lm(chain / 'sft' / 'model')
    for name, leaf in wide['layers']['mlp'].items():
        rounded = leaf['kernel'].astype(jnp.bfloat16).astype(jnp.float32)
        np.testing.assert_array_equal(narrow['layers']['mlp'][name]['kernel'], rounded)
        assert np.any(leaf['kernel'] != last['layers']['mlp'][name]['kernel'])


def test_the_head_of_a_score_model_stays_wide(moved, tmp_path):
    options = ('--dtype', 'float16')
    export.main(arguments(moved / 'reward', tmp_path / 'out', *options))
    held = hf.weights_lib.Weights(tmp_path / 'out')
    assert held.read('score_head.weight').dtype == np.float32
    assert held.read('model.embed_tokens.weight').dtype == np.float16
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['torch_dtype'] == 'float16'
    hf.load_score_model(tmp_path / 'out')


def test_the_card(chain, moved, tmp_path):
    export.main(arguments(chain / 'ppo_lag', tmp_path / 'out'))
    text = (tmp_path / 'out' / 'README.md').read_text()
    assert text.startswith('---\nlibrary_name: transformers\ntags:\n- beaver_jax\n')
    assert f'- base: `{chain}/sft`\n- stage: `ppo_lag`, step 5\n' in text
    assert '- learnt: all parameters\n' in text
    row = metrics.read(chain / 'ppo_lag' / 'metrics.jsonl')[-1]
    assert f'| train/reward | {row["train/reward"]:.6g} |' in text
    final = micro.summary(chain, 'ppo_lag')['multiplier']['harm']['final']
    assert f'| λ of harm | {final:.6g} |' in text
    config = json.loads(text.partition('```json\n')[2].partition('```')[0])
    assert config == json.loads((chain / 'ppo_lag' / 'config.json').read_text())
    # Of a step that is not the last, the figures of that step alone.
    export.main(arguments(chain / 'sft', tmp_path / 'sft', '--step', '2'))
    text = (tmp_path / 'sft' / 'README.md').read_text()
    assert '- base: none, trained from scratch\n- stage: `sft`, step 2\n' in text
    assert '## Training, step 2' in text
    assert 'Held-out' not in text


def test_a_model_is_replaced_only_if_told(moved, tmp_path):
    out = tmp_path / 'out'
    (out / 'mine').mkdir(parents=True)
    command = arguments(moved / 'sft', out)
    assert micro.error(export.main, [*command, '--overwrite']) == (
        f'Error: --out={out} exists and holds no model; name another directory.'
    )
    (out / 'mine').rmdir()
    export.main(command)
    before = micro.snapshot(out)
    assert micro.error(export.main, command) == (
        f'Error: --out={out} holds a model; name another directory, or replace it '
        'with --overwrite.'
    )
    assert micro.snapshot(out) == before
    export.main([*command, '--overwrite', '--step', '2'])
    assert micro.weights(out) != {name: before[name][1] for name in micro.weights(out)}


def test_a_stage_is_never_replaced(moved):
    before = micro.snapshot(moved)
    for out in (moved / 'sft', moved / 'cost'):
        command = [str(moved / 'sft'), '--out', str(out), '--overwrite']
        assert micro.error(export.main, command) == (
            f'Error: --out={out} exists and holds no model; name another directory.'
        )
    assert micro.snapshot(moved) == before


def test_what_cannot_be_exported(chain, moved, tmp_path):
    def line(stage, *more):
        found = micro.error(export.main, arguments(stage, tmp_path / 'out', *more))
        assert not list(tmp_path.glob('out*'))
        return found.removeprefix('Error: ')

    where = moved / 'sft' / 'checkpoints'
    assert line(moved / 'sft', '--step', '3') == (
        f'{where}: no checkpoint of step 3; there are 2, 4.'
    )
    assert line(moved / 'sft', '--adapter') == (
        'config.model.lora.rank=0: the whole model has learnt, there is no adapter; '
        'export the model.'
    )
    assert line(moved) == (
        f'{moved}: no config.json of a stage; name the directory of a stage, such as '
        'runs/tiny/sft.'
    )
    assert line(chain / 'sft' / 'model') == (
        f'{chain}/sft/model: no config.json of a stage; name the directory of a stage, '
        'such as runs/tiny/sft.'
    )
    assert line(chain / 'evaluate').startswith(
        f"{chain}/evaluate/config.json: stage='evaluate' trains no model; name"
    )
    assert line(moved / 'sft', '--max_shard_size', '4 apples') == (
        '--max_shard_size=4 apples; use a size such as 500MB or 4GiB.'
    )
    begun = tmp_path / 'begun' / 'sft'
    begun.mkdir(parents=True)
    shutil.copy(moved / 'sft' / 'config.json', begun)
    shutil.copytree(moved / 'world', tmp_path / 'begun' / 'world')
    assert line(begun) == f'{begun}/checkpoints: no checkpoints there.'
    config = json.loads((begun / 'config.json').read_text())
    config['model.scratch.mlp_dim'] = 48
    (begun / 'config.json').write_text(json.dumps(config))
    shutil.copytree(where, begun / 'checkpoints')
    assert 'mlp/down/kernel is (2, 32, 16), not (2, 48, 16)' in line(begun)
    shutil.rmtree(tmp_path / 'begun' / 'world')
    assert str(tmp_path / 'begun' / 'world' / 'tokenizer') in line(begun)


TWO_PROCESSES = """
import sys
import jax
jax.distributed.initialize('localhost:' + sys.argv[1], 2, int(sys.argv[2]))
from beaver_jax import export
export.main(sys.argv[3:])
assert jax.device_count() == 2
"""


def test_several_processes_write_one_model(chain, moved, tmp_path):
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    command = arguments(moved / 'sft', tmp_path / 'out')
    (tmp_path / 'two.py').write_text(TWO_PROCESSES)
    running = [
        subprocess.Popen(
            [sys.executable, tmp_path / 'two.py', port, str(index), *command],
            cwd=micro.ROOT,
            env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(micro.ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(2)
    ]
    for one in running:
        micro.finished(one)
    assert micro.weights(tmp_path / 'out') == micro.weights(chain / 'sft' / 'model')
    assert {path.name for path in tmp_path.iterdir()} == {'out', 'two.py'}


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('1', 1), ('500MB', 5 * 10**8), ('1.5GiB', 3 * 2**29), ('2 kb', 2000)],
)
def test_sizes(text, expected):
    assert export.size(text) == expected


@pytest.mark.parametrize('text', ['', '0', '-1', '4TB', 'GB', '0.1'])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match='use a size such as 500MB or 4GiB'):
        export.size(text)


def test_float16_does_not_hold_everything(chain, tmp_path):
    tokenizer = tokenizer_lib.load(chain / 'sft' / 'model')
    model, params = tiny.causal_lm(vocab_size=len(tokenizer))
    large = params | {'embed': {'embedding': params['embed']['embedding'] * 1e6}}
    form = outputs.Form('float16')
    with pytest.raises(inputs.InputError, match='cannot hold embed/embedding'):
        outputs.export_causal_lm(model, large, tokenizer, tmp_path / 'out', form)
    assert list(tmp_path.iterdir()) == []
