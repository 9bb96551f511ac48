"""Trains on every host of a Cloud TPU pod slice, from this machine, with gcloud.

    python launch/tpu_pod.py --name=beaver --zone=us-east5-b --type=v5litepod-16 \
        --version=v2-alpha-tpuv5-lite --bucket=BUCKET -- \
        --config=configs/ppo_lag.py:llama-7b --config.run=runs/first …

Creates the slice or takes the one of that name, copies this checkout, installs it, and
runs the command after `--` on every host; what they print comes back, each line after
the number of its host. A slice that was preempted is made anew and the command started
again: runs resume by themselves, from a directory that all hosts share
(launch/README.md). The slice stays until `--delete`. `--dry_run` prints the commands
and runs none.

Variables that `--env` names go to the hosts through the standard input of ssh: they
stand in no command line, file or log.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

# A script is given its own directory alone.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from launch import tpu_slice

ROOT = pathlib.Path(__file__).parents[1]
ARCHIVE, CODE = 'beaver_jax.tar.gz', 'beaver_jax'
# Of a run that a signal ended, and of ssh without its host.
INTERRUPTED = (143, 255)
INSTALL = (
    'command -v python3.11 >/dev/null || (sudo apt-get -q update && '
    'sudo apt-get -q install -y python3.11 python3.11-venv)\n'
    "test -d .venv || python3.11 -m venv .venv\n.venv/bin/pip install -q -e '.[tpu]'"
)
# A bucket as a directory that all hosts share; its folders must be real ones.
MOUNT = (
    'command -v gcsfuse >/dev/null || (echo "deb '
    'https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" | '
    'sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null && '
    'curl -s https://packages.cloud.google.com/apt/doc/apt-key.gpg | '
    'sudo apt-key add - && sudo apt-get -q update && '
    'sudo apt-get -q install -y gcsfuse)\n'
    'mkdir -p runs\nmountpoint -q runs || gcsfuse {bucket} runs'
)
# Ends a run that an earlier start has left on a host, and waits for it.
STOP = (
    f'cd {CODE} 2>/dev/null && test -f run.pid && kill -TERM $(cat run.pid) 2>/dev/null'
    ' && tail --pid=$(cat run.pid) -f /dev/null; true'
)


class Stopped(tpu_slice.PodError):
    """Somebody has stopped the launcher: whatever the slice is, it does not go on."""


def train(
    pod: tpu_slice.Slice, hosts: int, command: Sequence[str], secrets: Sequence[str]
) -> int:
    """Runs a module's command on every host until all have ended.

    Args:
      pod: The slice.
      hosts: Their number.
      command: After `python -m`.
      secrets: Names of variables.

    Returns:
      0, or the exit code of the first that failed.

    Raises:
      Stopped: By SIGINT or SIGTERM, when the hosts have ended.
    """
    remote = (
        f'cd {CODE} && set -a && . /dev/stdin && set +a && '
        'echo $$ > run.pid && PYTHONUNBUFFERED=1 exec .venv/bin/python -m '
        f'{shlex.join(command)} </dev/null 2>&1'
    )
    commands = [pod.ssh(index, remote) for index in range(hosts)]
    tpu_slice.say(f'$ {shlex.join(commands[0])}')
    if hosts > 1 or pod.dry_run:
        tpu_slice.say(
            f'  … and on every other host, with --worker=1 to {hosts - 1 or "N"}'
        )
    if secrets:
        tpu_slice.say(f'  … with {", ".join(secrets)} through standard input')
    if pod.dry_run:
        return 0
    text = ''.join(f'{name}={shlex.quote(os.environ[name])}\n' for name in secrets)
    with _passed_on(lambda: pod.shell(STOP)):
        return _streamed(commands, text)


@contextlib.contextmanager
def _passed_on(stop: Callable[[], None]) -> Iterator[None]:
    """On SIGINT and SIGTERM the hosts are asked to stop; a run then saves and ends."""

    def ask():
        try:
            stop()
        except tpu_slice.PodError as error:  # of hosts that are gone
            tpu_slice.say(str(error))

    def handler(number, frame):
        tpu_slice.say('stopping the hosts; what they print still comes')
        threading.Thread(target=ask, daemon=True).start()
        stopped.append(number)

    stopped: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    if stopped:
        raise Stopped('stopped; start the same command again to go on.')


def _streamed(commands: Sequence[Sequence[str]], text: str) -> int:
    """Runs commands beside each other and prints their lines."""
    codes: list[int] = []

    def follow(index: int, command: Sequence[str]) -> None:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,  # an interrupt reaches the hosts by `stop`
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(text)
            for line in child.stdout:
                tpu_slice.say(f'[{index}] {line.rstrip()}')
        codes.append(child.returncode)

    threads = [
        threading.Thread(target=follow, args=pair) for pair in enumerate(commands)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next((code for code in codes if code), 0)


def archive(file: pathlib.Path) -> None:
    """Packs this checkout: what git tracks, and what it does not ignore."""
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    with tarfile.open(file, 'w:gz') as packed:
        for name in sorted(set(listed.stdout.split('\0')) - {''}):
            if (ROOT / name).is_file():
                packed.add(ROOT / name, name)


def launch(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Runs a command on a slice until it has ended, however often that is preempted.

    Returns:
      Its exit code.

    Raises:
      PodError: A slice that cannot be had at first, or at the last restart.
      Stopped: Somebody has stopped the launcher.
    """
    pod = tpu_slice.Slice(options, tpu_slice.Gcloud(dry_run=options.dry_run))
    for start in range(options.restarts + 1):
        if start:
            time.sleep(options.poll)
        hosts = 0
        try:
            hosts = pod.ensure()
            _prepare(pod, options)
        except tpu_slice.PodError as error:
            # At first it is a mistake, but for a host that is gone, which fails in
            # every way. Later it is the cloud: without room, or out of reach.
            mistaken = not start and (not hosts or pod.is_ready())
            if mistaken or start == options.restarts:
                raise
            tpu_slice.say(f'not started: {error}')
            continue
        code = train(pod, hosts, [options.module, *command], options.env)
        command = resumed(command)
        if code == 0 or options.dry_run:
            break
        tpu_slice.say(f'ended with exit code {code}')
        if pod.is_ready() and code not in INTERRUPTED:
            break
    if options.delete:
        pod.delete()
    return code


def resumed(command: Sequence[str]) -> list[str]:
    """The command of every start after the first.

    Where that was to overwrite, these go on with what it has begun, and with nothing
    that another config has: `refuse` is exactly that, `resume` would take up both.
    """
    flag = '--config.if_exists'
    words = [
        f'{flag}=refuse' if word == f'{flag}=overwrite' else word for word in command
    ]
    for index, (before, word) in enumerate(itertools.pairwise(words), start=1):
        if (before, word) == (flag, 'overwrite'):
            words[index] = 'refuse'
    return words


def _prepare(pod: tpu_slice.Slice, options: argparse.Namespace) -> None:
    pod.shell(STOP)
    with tempfile.TemporaryDirectory() as directory:
        # Its name is the same in every dry run.
        file = pathlib.Path(directory) / ARCHIVE
        if options.dry_run:
            file = pathlib.Path(ARCHIVE)
        else:
            archive(file)
        pod.copy(file)
    steps = [f'mkdir -p {CODE} && tar xzf {ARCHIVE} -C {CODE} && cd {CODE}']
    if options.bucket:
        steps.append(MOUNT.format(bucket=shlex.quote(options.bucket)))
    steps += [step for step in (options.setup, options.install) if step]
    pod.shell('set -e\n' + '\n'.join(steps))


def parser() -> argparse.ArgumentParser:
    """The options before `--`."""
    found = argparse.ArgumentParser(
        prog='python launch/tpu_pod.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    found.add_argument('--name', required=True, help='of the slice')
    found.add_argument('--zone', required=True)
    found.add_argument('--type', required=True, help='such as v5litepod-16')
    found.add_argument('--version', required=True, help='of the runtime')
    found.add_argument('--project', default='', help="default: gcloud's own")
    found.add_argument('--spot', action='store_true', help='cheap, and preempted')
    found.add_argument('--queued', action='store_true', help='by a queued resource')
    found.add_argument('--bucket', default='', help='mounted as runs/ on every host')
    found.add_argument(
        '--setup', default='', help='command on every host before the installation'
    )
    found.add_argument('--install', default=INSTALL, help='command that installs')
    found.add_argument('--module', default='beaver_jax.train', help='what is run')
    found.add_argument(
        '--env', type=_names, default=[], help='variables that go along: A,B'
    )
    found.add_argument('--restarts', type=int, default=100, help='at most')
    found.add_argument('--poll', type=float, default=30.0, help='seconds')
    found.add_argument('--delete', action='store_true', help='the slice, at the end')
    found.add_argument('--dry_run', action='store_true', help='print the commands')
    return found


def _names(text: str) -> list[str]:
    names = [name for name in text.split(',') if name]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise argparse.ArgumentTypeError(f'not in the environment: {missing}')
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line asks for; returns the exit code of the run.

    Raises:
      SystemExit: With a line that says why it could not.
    """
    ours = list(sys.argv[1:] if argv is None else argv)
    command: list[str] = []
    if '--' in ours:
        at = ours.index('--')
        ours, command = ours[:at], ours[at + 1 :]
    options = parser().parse_args(ours)
    if not command:
        parser().error('nothing to run; write the command after --, -- --config=FILE')
    try:
        return launch(options, command)
    except (tpu_slice.PodError, FileNotFoundError) as error:
        sys.exit(f'Error: {error}')


if __name__ == '__main__':
    sys.exit(main())
