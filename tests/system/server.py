"""A server as a process."""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import signal
import socket
import time
from typing import Any

import httpx

from beaver_jax.models import hf
from tests import micro
from tests.serve import small

TOKEN = 'open sesame'


class Server:
    """`python -m beaver_jax.serve` on a free port."""

    def __init__(
        self,
        models: Sequence[str],
        log: pathlib.Path,
        compiled: dict[str, int | bool],
        **options: Any,
    ):
        """Starts it, with flags of XLA, and waits until it serves."""
        with contextlib.closing(socket.socket()) as free:
            free.bind(('127.0.0.1', 0))
            self.port = free.getsockname()[1]
        self.url = f'http://127.0.0.1:{self.port}'
        flags = [f'--{name}={value}' for name, value in options.items()]
        os.environ['BEAVER_TEST_TOKEN'] = TOKEN
        self._log = log
        self.process = micro.process(
            'beaver_jax.serve',
            [*models, f'--port={self.port}', *flags],
            flags=' '.join(f'--{k}={v}' for k, v in compiled.items()),
            stdout=log.open('w'),
        )
        self._wait()

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def open(self) -> int:
        """Answers that it has to give."""
        health = httpx.get(f'{self.url}/health', headers=self.headers).json()
        return sum(health['open'].values())

    @property
    def headers(self) -> dict[str, str]:
        """With the token."""
        return {'Authorization': f'Bearer {TOKEN}'}

    def until(self, condition: Any, seconds: float = 60) -> None:
        """Waits."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def terminate(self) -> int:
        """Sends SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)

    def kill(self) -> None:
        """Ends it if it runs."""
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 300
        while True:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f'{self.url}/health').status_code == 200:
                    return
            time.sleep(0.1)


def talker(directory: pathlib.Path, **changes: Any) -> str:
    """A model whose greedy answers go on to their limits.

    Its EOS is as likely as its unknown token, which of the two is taken first.
    """
    small.language_model(directory, max_positions=4096, **changes)
    model, params = hf.load_causal_lm(directory)
    kernel = params['lm_head']['kernel']
    unknown, eos = 0, 2
    params['lm_head']['kernel'] = kernel.at[:, eos].set(kernel[:, unknown])
    hf.save_causal_lm(directory, model.config, params)
    return str(directory)
