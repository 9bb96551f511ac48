"""Of a bad command line the message is one line, without a traceback."""

import pytest

from beaver_jax import train
from tests import micro


@pytest.mark.parametrize(
    'argv, expected',
    [
        (['--config=configs/ppo_lagg.py'], 'did you mean configs/ppo_lag.py'),
        (['--config=configs/ppo_lag.py:tinny'], 'did you mean tiny?'),
        (
            ['--config=configs/ppo_lag.py', '--config.ppo.kl_coef=1'],
            'did you mean config.ppo.kl_coeff',
        ),
        (
            ['--config=configs/ppo_lag.py', '--config.costs.harm.threshold=low'],
            "config.costs.harm.threshold='low' is not a number",
        ),
    ],
)
def test_the_command_line(argv, expected, capsys, monkeypatch):
    monkeypatch.chdir(micro.ROOT)
    with pytest.raises(SystemExit) as caught:
        train.main(argv)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count('\n') == 1


def test_a_process_ends_with_the_line_and_no_traceback(tmp_path):
    run = tmp_path / 'run'
    overrides = [f'--config.run={run}', '--config.mesh.fsdp=3']
    running = micro.process(
        'beaver_jax.train', ['--config=configs/sft.py', *overrides], devices=4
    )
    output, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    expected = 'Error: config.mesh.fsdp=3 does not divide 4 devices; use 1, 2 or 4.\n'
    assert output == expected
    assert not run.exists()


def test_the_traceback_is_kept_on_request(configs, tmp_path, monkeypatch):
    monkeypatch.setenv('BEAVER_JAX_TRACEBACK', '1')
    argv = micro.arguments(configs, 'sft', {'run': tmp_path, 'parts': 3})
    with pytest.raises(train.RunError, match=r'config\.parts=3'):
        train.main(argv)
