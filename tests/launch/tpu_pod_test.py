"""What the launcher of TPU pods would run."""

import tarfile

import pytest

from launch import tpu_pod

OPTIONS = [
    '--name=beaver',
    '--zone=us-east5-b',
    '--type=v5litepod-16',
    '--version=v2-alpha-tpuv5-lite',
    '--install=make install',
]
COMMAND = ['--', '--config=configs/ppo_lag.py', '--config.run=runs/a b']
STOP = (
    "$ gcloud compute tpus tpu-vm ssh beaver --worker=all '--command=cd beaver_jax "
    '2>/dev/null && test -f run.pid && kill -TERM $(cat run.pid) 2>/dev/null && tail '
    "--pid=$(cat run.pid) -f /dev/null; true' --zone=us-east5-b"
)
GOLDEN = f"""\
$ gcloud compute tpus tpu-vm describe beaver --format=json --zone=us-east5-b
$ gcloud compute tpus tpu-vm create beaver --accelerator-type=v5litepod-16 \
--version=v2-alpha-tpuv5-lite --zone=us-east5-b
{STOP}
$ gcloud compute tpus tpu-vm scp beaver_jax.tar.gz beaver:beaver_jax.tar.gz \
--worker=all --zone=us-east5-b
$ gcloud compute tpus tpu-vm ssh beaver --worker=all '--command=set -e
mkdir -p beaver_jax && tar xzf beaver_jax.tar.gz -C beaver_jax && cd beaver_jax
make install' --zone=us-east5-b
$ gcloud compute tpus tpu-vm ssh beaver --worker=0 '--command=cd beaver_jax && set -a \
&& . /dev/stdin && set +a && echo $$ > run.pid && PYTHONUNBUFFERED=1 exec \
.venv/bin/python -m beaver_jax.train --config=configs/ppo_lag.py \
'"'"'--config.run=runs/a b'"'"' </dev/null 2>&1' --zone=us-east5-b
  … and on every other host, with --worker=1 to N
"""


def test_a_dry_run_prints_every_command_and_runs_none(capsys, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert tpu_pod.main([*OPTIONS, '--dry_run', *COMMAND]) == 0
    assert capsys.readouterr().out == GOLDEN


def test_queued_spot_slices_with_storage_and_secrets(capsys, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.setenv('TOKEN', 'hidden')
    more = ['--queued', '--spot', '--project=p', '--bucket=b', '--env=TOKEN']
    options = [*OPTIONS, *more, '--setup=true', '--delete', '--dry_run']
    assert tpu_pod.main([*options, *COMMAND]) == 0
    said = capsys.readouterr().out
    place = '--zone=us-east5-b --project=p'
    assert (
        '$ gcloud compute tpus queued-resources create beaver --node-id=beaver '
        '--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot '
        f'{place}\n'
    ) in said
    assert said.endswith(
        '$ gcloud compute tpus queued-resources delete beaver --force --quiet '
        f'{place}\n'
    )
    assert 'mountpoint -q runs || gcsfuse b runs\ntrue\nmake install' in said
    assert '… with TOKEN through standard input' in said
    assert 'hidden' not in said


def test_mistakes_are_told_at_once(capsys):
    with pytest.raises(SystemExit):
        tpu_pod.main(OPTIONS)
    assert 'write the command after --' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tpu_pod.main([*OPTIONS, '--env=NO_SUCH_TOKEN', *COMMAND])
    assert "not in the environment: ['NO_SUCH_TOKEN']" in capsys.readouterr().err


def test_the_archive_holds_the_checkout(tmp_path):
    file = tmp_path / 'code.tar.gz'
    tpu_pod.archive(file)
    with tarfile.open(file) as packed:
        names = packed.getnames()
    assert {'setup.cfg', 'beaver_jax/train.py', 'configs/ppo_lag.py'} <= set(names)
    assert not [name for name in names if '__pycache__' in name or '.venv' in name]
