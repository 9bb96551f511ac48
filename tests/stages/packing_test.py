"""SFT on packed rows, by the public command: it learns, and goes on where it was."""

import re

import pytest

from beaver_jax import metrics
from beaver_jax import train
from tests import micro

STEPS = 12


@pytest.fixture
def arguments(chain, few_rows, tmp_path):
    """The command line of SFT on packed rows of the chain's world, in some run."""
    configs = micro.write_configs(tmp_path / 'configs')
    changes = {
        **few_rows,
        'model.tokenizer': chain / 'world' / 'tokenizer',
        'pack': 'true',
        'max_length': 128,
        'batch_size': 8,
        'steps': STEPS,
        'optimizer.learning_rate': 1e-2,
    }

    def arguments(run, **more):
        return micro.arguments(configs, 'sft', {'run': run, **changes, **more})

    return arguments


def test_it_learns_and_says_how_full_its_sequences_are(arguments, tmp_path, capsys):
    train.main(arguments(tmp_path / 'run'))
    log = capsys.readouterr().err
    found = micro.summary(tmp_path / 'run', 'sft')
    data = found['data']
    rows = data['examples'] / data['packed']
    filled = 100 * data['tokens'] / (data['packed'] * 128)
    assert rows > 2 and filled > 80
    assert (
        f'packed: {rows:.1f} rows in a sequence of config.max_length=128, '
        f'{filled:.1f}% of it tokens' in log
    )
    assert 'every row is padded' not in log
    assert re.search(r'sft: compiled: step \d', log) and 'again' not in log
    losses = [
        row['train/loss'] for row in metrics.read(tmp_path / 'run/sft/metrics.jsonl')
    ]
    assert losses[-1] < 0.8 * losses[0]
    # Held-out rows are single ones, and lose no more than what is learnt from.
    assert found['metrics']['loss'] < 0.9 * losses[0]


def test_it_resumes_to_the_same_bytes(arguments, tmp_path, monkeypatch):
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    micro.train_alone(arguments(whole, steps=5))
    restart = {'checkpoint.every': 2}
    write = metrics.Writer.write

    def dies(self, step, values):
        if step == 4:
            raise KeyboardInterrupt
        write(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.Writer, 'write', dies)
        with pytest.raises(KeyboardInterrupt):
            micro.train_alone(arguments(cut, steps=5, **restart))
    micro.train_alone(arguments(cut, steps=5, **restart))
    names = [path / 'sft' / metrics.METRICS for path in (whole, cut)]
    one, other = (name.read_bytes() for name in names)
    assert one == other
    one, other = (micro.weights(path / 'sft' / 'model') for path in (whole, cut))
    assert one == other


def test_an_epoch_is_counted_in_packed_sequences(arguments, tmp_path, few_rows):
    micro.train_alone(arguments(tmp_path / 'run', steps=0, epochs=2.0))
    found = micro.summary(tmp_path / 'run', 'sft')
    assert found['steps'] == round(2 * found['data']['packed'] / 8)
    assert found['data']['packed'] < found['data']['examples'] / 2
