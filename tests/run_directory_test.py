"""A run's directory: another config's, protected, full; and gradients that overflow."""

import os
import resource
import shutil
import signal
import sys
import time

import pytest

from beaver_jax import distributed
from beaver_jax import layout
from beaver_jax import metrics
from beaver_jax import status
from beaver_jax import train
from tests import micro

ONE_DEVICE = {key.replace('.', '__'): size for key, size in micro.ONE_DEVICE.items()}


@pytest.fixture
def sft(chain, configs, few_rows, tmp_path):
    """(run, the command line of its SFT with some changes)."""
    run = tmp_path / 'run'
    tokenizer = {'model.tokenizer': chain / 'world' / 'tokenizer'}

    def arguments(**changes):
        dotted = {name.replace('__', '.'): value for name, value in changes.items()}
        overrides = {'run': run, **few_rows, **tokenizer, **dotted}
        return micro.arguments(configs, 'sft', overrides)

    return run, arguments


def test_a_run_of_another_config_is_refused_resumed_or_moved_aside(sft, capsys):
    run, arguments = sft
    train.main(arguments(steps=2))
    before = micro.snapshot(run)
    line = micro.error(train.main, arguments(steps=3, optimizer__learning_rate=0.01))
    assert line == (
        f'Error: {run}/sft holds a run with another config (optimizer.learning_rate: '
        '0.003 → 0.01, steps: 2 → 3). Choose another --config.run, go on in it under '
        'this config with --config.if_exists=resume, or move it aside with '
        '--config.if_exists=overwrite.'
    )
    assert micro.snapshot(run) == before
    # How it is logged and saved may change.
    train.main(arguments(steps=2, log__every=2, checkpoint__keep=1))
    assert micro.snapshot(run) == before

    train.main(arguments(steps=3, if_exists='resume'))
    log = capsys.readouterr().err
    assert f'{run}/sft: goes on with another config: steps: 2 → 3' in log
    assert f'{run}/sft: resumed after step 2 of 3' in log
    rows = metrics.read(run / 'sft' / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [1, 2, 3]
    train.main(arguments(steps=3))
    assert 'done, nothing to do' in capsys.readouterr().err

    longer = micro.snapshot(run / 'sft')
    train.main(arguments(steps=1, if_exists='overwrite'))
    assert micro.snapshot(run / 'sft.old-1') == longer
    assert micro.summary(run, 'sft')['steps'] == 1


def test_a_mended_mistake_is_no_other_run(sft):
    run, arguments = sft
    # The first start claims the directory; it has nothing to lose yet.
    line = micro.error(train.main, arguments(max_length=129))
    assert 'config.max_length=129 is more than the 128 positions' in line
    train.main(arguments(steps=1))
    assert micro.summary(run, 'sft')['steps'] == 1


def test_a_checkpoint_of_another_architecture(sft):
    _, arguments = sft
    train.main(arguments(steps=2))
    changes = {'model__scratch__mlp_dim': 48, 'model__scratch__tie_embeddings': True}
    line = micro.error(train.main, arguments(steps=3, if_exists='resume', **changes))
    assert 'the checkpoint of step 2 is of another architecture or optimizer' in line
    assert 'left over: ' in line
    assert 'lm_head/kernel' in line
    # [layers, width, mlp_dim]
    assert 'mlp/down/kernel is (2, 32, 16), not (2, 48, 16)' in line
    assert 'config.if_exists=overwrite' in line


def test_a_run_below_a_file(sft, tmp_path):
    _, arguments = sft
    (tmp_path / 'file').write_text('')
    line = micro.error(train.main, arguments(run=tmp_path / 'file' / 'run'))
    assert line == (
        f'Error: {tmp_path}/file/run/sft cannot be written (Not a directory); set '
        '--config.run to a directory with space and permission.'
    )


def test_a_write_protected_run(sft):
    run, arguments = sft
    run.mkdir()
    run.chmod(0o555)
    argv = arguments(**ONE_DEVICE)
    # Permissions do not bind root, until it gives up the right to override them.
    drop = ['setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override']
    prefix = drop if os.geteuid() == 0 else []
    running = micro.process('beaver_jax.train', argv, prefix=prefix)
    output, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert output == (
        f'Error: {run}/sft cannot be written (Permission denied); set --config.run '
        'to a directory with space and permission.\n'
    )


def test_a_full_disk_loses_nothing(sft):
    run, arguments = sft
    argv = arguments(steps=12, batch_size=8, checkpoint__every=1, **ONE_DEVICE)
    running = micro.process('beaver_jax.train', argv)
    checkpoints = run / 'sft' / 'checkpoints'
    while running.poll() is None and not (checkpoints / '3').is_dir():
        time.sleep(0.002)
    # From now on no file can grow beyond 16 KB, as a checkpoint's would; the metrics
    # still fit.
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (2**14, 2**14))
    output, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    names = [path.name for path in checkpoints.iterdir()]
    whole = sorted(int(name) for name in names if name.isdigit())
    line = output.splitlines()[-1]
    assert line.startswith(f'Error: {checkpoints}: a checkpoint could not be saved (')
    assert f'; the last whole one is of step {whole[-1]}. Free some space' in line
    assert 'Traceback' not in output
    assert not (run / 'sft' / 'summary.json').exists()

    log = micro.finished(micro.process('beaver_jax.train', argv))
    assert f'{run}/sft: resumed after step {whole[-1]} of 12' in log
    rows = metrics.read(run / 'sft' / 'metrics.jsonl')
    assert [row['step'] for row in rows] == list(range(1, 13))


def test_a_disk_too_full_for_the_world(configs, tmp_path):
    run = tmp_path / 'run'
    argv = micro.arguments(configs, 'sft', {'run': run, **micro.ONE_DEVICE})
    running = micro.process(
        'beaver_jax.train', argv, prefix=['prlimit', f'--fsize={2**14}']
    )
    output, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    line = output.splitlines()[-1]
    assert line.startswith('Error: [Errno 27] File too large (free space or make it ')
    assert 'start the same command again' in line
    assert 'Traceback' not in output
    assert not (run / 'world').exists()
    assert not list(run.glob('.world*'))


# ---- Signals ------------------------------------------------------------------------


# Step 2 is written while step 3 is computed; step 4 is the first that hears of it. What
# is heard in the last step ends the run before it evaluates.
@pytest.mark.parametrize(
    'number, when, stops',
    [(signal.SIGTERM, 2, 4), (signal.SIGINT, 2, 4), (signal.SIGTERM, 6, 6)],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    sft, number, when, stops, monkeypatch, capfd
):
    run, arguments = sft
    command = arguments(steps=6, checkpoint__every=100, log__heartbeat=0.05)
    write = metrics.Writer.write

    def and_signal(self, step, values):
        write(self, step, values)
        if step == when:
            os.kill(os.getpid(), number)

    end = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with monkeypatch.context() as patch, pytest.raises(end) as caught:
        patch.setattr(metrics.Writer, 'write', and_signal)
        patch.setattr(sys, 'excepthook', sys.excepthook)
        train.main(command)
    if end is SystemExit:
        assert caught.value.code == distributed.STOPPED
    told = (
        f'{run}/sft: stopped by a signal after step {stops} of 6; the checkpoint of '
        f'step {stops}'
    )
    said = capfd.readouterr().err
    assert told in said
    # Whoever pressed Ctrl-C waits for the step, and for the checkpoint.
    assert said.count('Ctrl-C once more') == (number == signal.SIGINT)
    assert not (run / 'sft' / 'summary.json').exists()
    # After all steps a summary may come, for a minute.
    (found,) = status.read(run / 'sft', time.time() + 61)
    assert (found.state, found.step, found.steps) == (status.STOPPED, stops, 6)
    train.main(command)
    assert f'resumed after step {stops} of 6' in capfd.readouterr().err
    rows = metrics.read(run / 'sft' / metrics.METRICS)
    assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
    (found,) = status.read(run / 'sft', time.time())
    assert (found.state, found.step) == (status.DONE, 6)


def test_a_run_killed_after_its_last_step_ends_as_one_left_alone(sft, capsys):
    run, arguments = sft
    ends = []
    for _ in range(2):
        train.main(arguments(steps=2))
        ends.append(micro.summary(run, 'sft'))
        (run / 'sft' / layout.SUMMARY).unlink()  # written last of all
    assert 'resumed after step 2 of 2' in capsys.readouterr().err
    # Of a program that this start had no step for, too.
    assert ends[0]['memory']['program_bytes']['step'] > 0
    for end in ends:
        assert end.pop('seconds') > 0 and end['memory'].pop('peak_process_bytes') > 0
    assert ends[0] == ends[1]


def test_a_second_ctrl_c_does_not_wait_for_a_checkpoint(sft, monkeypatch, capfd):
    run, arguments = sft
    command = arguments(steps=6, checkpoint__every=2)
    write = metrics.Writer.write

    def and_signal(self, step, values):
        write(self, step, values)
        if step == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metrics.Writer, 'write', and_signal)
        patch.setattr(sys, 'excepthook', sys.excepthook)
        train.main(command)
    assert 'stopped by a signal' not in capfd.readouterr().err
    (found,) = status.read(run / 'sft', time.time() + 61)
    assert (found.state, found.step) == (status.STOPPED, 3)
    train.main(command)
    assert 'resumed after step 2 of 6' in capfd.readouterr().err
    rows = metrics.read(run / 'sft' / metrics.METRICS)
    assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]


# ---- Gradients ----------------------------------------------------------------------


def test_updates_that_are_not_finite_are_skipped_and_end_the_run(sft, capsys):
    run, arguments = sft
    often = {'checkpoint__every': 1, 'optimizer__warmup_ratio': 0}
    train.main(arguments(steps=3, **often))
    changes = {'steps': 12, 'optimizer__learning_rate': 1e38, 'max_bad_steps': 3}
    line = micro.error(train.main, arguments(if_exists='resume', **changes, **often))
    # Step 4 has finite gradients and leaves absurd parameters; 5, 6 and 7 are skipped.
    where = f'{run}/sft/checkpoints'
    assert line == (
        'Error: step 7: 3 updates in a row had non-finite gradients and were skipped; '
        f'the last good checkpoint is {where}/3, remove {where}/4 to go back to it. '
        'Lower the learning rate, and go on with --config.if_exists=resume or start '
        'anew with --config.if_exists=overwrite.'
    )
    rows = metrics.read(run / 'sft' / 'metrics.jsonl')
    assert [row['train/bad_steps'] for row in rows] == [0, 0, 0, 0, 1, 2, 3]
    assert not (run / 'sft' / 'summary.json').exists()
    # The way out, as it is told.
    shutil.rmtree(run / 'sft' / 'checkpoints' / '4')
    train.main(arguments(steps=5, if_exists='resume', **often))
    assert 'resumed after step 3 of 5' in capsys.readouterr().err
    rows = metrics.read(run / 'sft' / 'metrics.jsonl')
    assert [row['train/bad_steps'] for row in rows] == [0] * 5
