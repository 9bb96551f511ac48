"""A server as a process."""

from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import signal
import socket
import time
from typing import Any

import httpx
import jax
import jax.numpy as jnp

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
    """A model whose answers, greedy or drawn, go on to their limits."""
    small.language_model(directory, max_positions=4096, **changes)
    model, params = hf.load_causal_lm(directory)
    # The first number of a state is above 0 whatever was read, as no layer changes it,
    # and it makes EOS impossible.
    params['embed']['embedding'] = params['embed']['embedding'].at[:, 0].set(1)
    for module in (params['layers']['attention']['o'], params['layers']['mlp']['down']):
        module['kernel'] = module['kernel'].at[..., 0].set(0)
    eos = 2
    kernel = params['lm_head']['kernel'].at[0].set(0).at[0, eos].set(-1000)
    params['lm_head']['kernel'] = kernel
    hf.save_causal_lm(directory, model.config, params)
    return str(directory)


MARKUP = (
    '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b>'
)


def author(directory: pathlib.Path) -> str:
    """A model whose greedy answer to anything is MARKUP."""
    small.language_model(directory, max_positions=4096)
    (directory / 'tokenizer.model').unlink()
    file = directory / 'tokenizer.json'
    tokenizer = json.loads(file.read_text())
    pieces, merges = (tokenizer['model'][name] for name in ('vocab', 'merges'))
    token, eos = pieces.pop('ake'), pieces['</s>']
    pieces[MARKUP] = token
    tokenizer['model']['merges'] = [
        pair for pair in merges if 'ake' not in (*pair, ''.join(pair))
    ]
    file.write_text(json.dumps(tokenizer))
    model, params = hf.load_causal_lm(directory)
    # No layer adds anything: the next token follows from the last one alone. All tokens
    # but that of the markup are followed by it, and it is followed by EOS.
    params = jax.tree.map(jnp.zeros_like, params)
    params['final_norm']['scale'] = params['final_norm']['scale'] + 1
    embedding = params['embed']['embedding'].at[:, 0].set(1)
    params['embed']['embedding'] = embedding.at[token].set(0).at[token, 1].set(1)
    kernel = params['lm_head']['kernel'].at[0, token].set(100)
    params['lm_head']['kernel'] = kernel.at[1, eos].set(100)
    hf.save_causal_lm(directory, model.config, params)
    return str(directory)
