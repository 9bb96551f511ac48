"""Runs a command as several processes on this machine: one JAX program of them all.

    python launch/local.py --processes=2 --fake_devices=4 -- --config=configs/ppo_lag.py
    python launch/local.py --processes=2 -- --config=configs/ppo_lag.py

The first gives each process four fake CPU devices, the second an equal share of the
GPUs of this machine. What stands after `--` is the command's. Each line of output
begins with the number of its process. Where one fails the others are ended; signals go
to all.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE = 20.0  # seconds in which processes may end by themselves


class LaunchError(ValueError):
    """What cannot be launched, and why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; returns the exit code of what failed first.

    Raises:
      SystemExit: The options do not fit this machine.
    """
    options, command = _options(sys.argv[1:] if argv is None else list(argv))
    try:
        environments = places(options.processes, options.fake_devices, os.environ)
    except LaunchError as error:
        sys.exit(f'Error: {error}')
    port = options.port or _free_port()

    def start(environment: dict[str, str]) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, '-m', options.module, *command],
            env=environment | {'BEAVER_JAX_COORDINATOR': f'localhost:{port}'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            # Of its own, so that a terminal's interrupt comes once, from here.
            start_new_session=True,
        )

    return watch(start(environment) for environment in environments)


def _options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    ours, command = argv, []
    if '--' in argv:
        at = argv.index('--')
        ours, command = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(
        prog='python launch/local.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--processes', type=int, required=True)
    parser.add_argument(
        '--fake_devices', type=int, default=0, help='CPU devices of each process'
    )
    parser.add_argument('--module', default='beaver_jax.train', help='what is run')
    parser.add_argument('--port', type=int, default=0, help='of process 0; 0: any')
    options = parser.parse_args(ours)
    if not command:
        parser.error('nothing to run; write the command after --, -- --config=FILE')
    return options, command


def places(
    processes: int, fake_devices: int, environ: Mapping[str, str]
) -> list[dict[str, str]]:
    """The environment of each process.

    Args:
      processes: How many.
      fake_devices: CPU devices of each; 0 for a share of the GPUs.
      environ: What they inherit.

    Raises:
      LaunchError: There are no such shares.
    """
    if processes < 1 or fake_devices < 0:
        raise LaunchError(
            f'--processes={processes} --fake_devices={fake_devices}; use at least 1 '
            'and 0.'
        )
    shares: list[dict[str, str]]
    if fake_devices:
        flag = f'--xla_force_host_platform_device_count={fake_devices}'
        flags = f'{environ.get("XLA_FLAGS", "")} {flag}'.strip()
        shares = [{'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}] * processes
    else:
        devices = _gpus(environ)
        if not devices or len(devices) % processes:
            raise LaunchError(
                f'{len(devices)} GPUs are no equal shares of {processes} processes; '
                'use a divisor, or --fake_devices=N for N CPU devices each.'
            )
        size = len(devices) // processes
        shares = [
            {'CUDA_VISIBLE_DEVICES': ','.join(devices[i * size : (i + 1) * size])}
            for i in range(processes)
        ]
    return [
        {
            **environ,
            **share,
            'BEAVER_JAX_PROCESSES': str(processes),
            'BEAVER_JAX_PROCESS': str(index),
            'PYTHONUNBUFFERED': '1',
        }
        for index, share in enumerate(shares)
    ]


def _gpus(environ: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that may be used."""
    if 'CUDA_VISIBLE_DEVICES' in environ:
        return [name for name in environ['CUDA_VISIBLE_DEVICES'].split(',') if name]
    try:
        listed = subprocess.run(
            ['nvidia-smi', '--list-gpus'], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(index) for index, _ in enumerate(listed.stdout.splitlines())]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def watch(starting: Iterable[subprocess.Popen], grace: float = GRACE) -> int:
    """Prints what processes say until all have ended; passes signals on.

    Args:
      starting: Starts a process, with piped output, whenever it is asked for one.
      grace: Seconds that the others have after one has failed, and again after
        SIGTERM, before they are killed.

    Returns:
      0, or the exit code of the first that failed, as a shell tells it.
    """
    children: list[subprocess.Popen] = []
    readers: list[threading.Thread] = []
    early: list[int] = []  # signals that came while processes were being started
    started = False

    def pass_on(number, frame):
        if not started:
            early.append(number)
            return
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, pass_on) for number in handled}
    try:
        for index, child in enumerate(starting):
            children.append(child)
            readers.append(threading.Thread(target=_print, args=(index, child)))
            readers[-1].start()
            if early:
                break
        started = True
        for number in early:
            pass_on(number, None)
        failed = _first_failure(children)
        if failed:
            _end(children, grace)
        for reader in readers:
            reader.join()
        return failed
    finally:
        for child in children:
            child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(index: int, child: subprocess.Popen) -> None:
    assert child.stdout is not None  # it is piped
    for line in child.stdout:
        sys.stdout.write(f'[{index}] {line.rstrip()}\n')
        sys.stdout.flush()


def _first_failure(children: Sequence[subprocess.Popen]) -> int:
    while True:
        codes = [child.poll() for child in children]
        for code in codes:
            if code:
                return code if code > 0 else 128 - code
        if None not in codes:
            return 0
        time.sleep(0.05)


def _end(children: Sequence[subprocess.Popen], grace: float) -> None:
    """Waits for processes, and then ends those that have not ended."""
    for stop in (None, signal.SIGTERM, signal.SIGKILL):
        running = [child for child in children if child.poll() is None]
        for child in running:
            if stop is not None:
                child.send_signal(stop)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            if all(child.poll() is not None for child in running):
                return
            time.sleep(0.05)


if __name__ == '__main__':
    sys.exit(main())
