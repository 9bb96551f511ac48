"""What a training loop loses to data, checkpoints and logs, measured in the loop.

    python -m benchmarks.overheads [--gigabytes 1] [--tokens 4096] [--json FILE]

Trains SFT with `train.train` on the built-in world: a LLaMA whose state (parameters and
two moments, float32) has this size, so many tokens a step, a checkpoint every third
step. What holds the loop up is timed where it is called: the next batch, a save (and of
it the sums over the state), the lines of metrics, heartbeats. Resident memory is read
meanwhile: until the first save, and since. Steps during which a save is written are
compared with those that have none.
"""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import json
import os
import pathlib
import platform
import statistics
import tempfile
import threading
import time
from typing import Any
from unittest import mock

import jax

from beaver_jax import checkpoint
from beaver_jax import checksums
from beaver_jax import config as config_lib
from beaver_jax import heartbeats
from beaver_jax import metrics
from beaver_jax import sharding
from beaver_jax import terminal
from beaver_jax import train
from beaver_jax.stages import stage
from benchmarks import load

LENGTH = 128
EVERY = 3  # steps from one save to the next
# A layer has 4·1024² + 3·1024·2816 = 12.8 million parameters, of 12 bytes each.
LAYER_BYTES = 12 * 12.85e6
TIMED: dict[str, tuple[Any, str]] = {
    'batch': (stage.Feed, '__next__'),
    'save': (checkpoint.Checkpoints, 'save'),
    'sums': (checksums, 'of'),
    'metrics': (metrics.Writer, 'write'),
    'timings': (metrics.Writer, 'write_timings'),
    'progress': (terminal.Progress, 'update'),
    'heartbeat': (heartbeats.Heart, 'does'),
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--gigabytes', type=float, default=1.0, help='of the state')
    parser.add_argument('--tokens', type=int, default=4096, help='of a step')
    parser.add_argument('--steps', type=int, default=12, help='one third are saved')
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = measured(directory, given.gigabytes, given.tokens, given.steps)
    found |= {
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'jax': jax.__version__,
    }
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + '\n')


def measured(
    directory: str, gigabytes: float, tokens: int, steps: int
) -> dict[str, Any]:
    """Trains, and says what the loop lost to what, in seconds and shares of a step."""
    layers = max(1, round(gigabytes * 1e9 / LAYER_BYTES))
    changes: dict[str, Any] = {
        'run': directory,
        'steps': steps,
        'max_length': LENGTH,
        'batch_size': tokens // LENGTH,
        'pack': True,
        'checkpoint.every': EVERY,
        'checkpoint.keep': 1,
        'model.scratch.num_layers': layers,
    }
    scratch = {name: size for name, size in load.LARGE.items() if name != 'vocab_size'}
    changes |= {f'model.scratch.{name}': size for name, size in scratch.items()}
    argv = [f'--config.{name}={value}' for name, value in changes.items()]
    config = config_lib.from_argv(['--config=configs/sft.py', *argv])
    mesh = sharding.make_mesh(**config.mesh)
    with timed() as seconds, resident() as samples, jax.set_mesh(mesh):
        train.train(config, mesh)
    rows = pathlib.Path(directory, 'sft', metrics.TIMINGS).read_text().splitlines()
    took = {row['step']: row['time/step'] for row in map(json.loads, rows)}
    # The first steps warm up. A save goes on while the steps after it are computed.
    alone = [took[step] for step in took if step > EVERY and step % EVERY == 0]
    beside = [took[step] for step in took if step > EVERY and step % EVERY == 1]
    step = statistics.median(alone)
    lost = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    return {
        'state_bytes': layers * LAYER_BYTES,
        'tokens': tokens,
        'step_seconds': step,
        'step_seconds_beside_a_save': statistics.median(beside),
        'lost_seconds': lost,
        'lost_shares': {name: one / step for name, one in lost.items()},
        'resident_bytes': samples,
    }


@contextlib.contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """Seconds of every call of TIMED."""
    seconds: dict[str, list[float]] = {name: [] for name in TIMED}

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args, **keywords):
            begun = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                seconds[name].append(time.perf_counter() - begun)

        return call

    with contextlib.ExitStack() as patched:
        for name, (owner, attribute) in TIMED.items():
            call = wrapped(name, getattr(owner, attribute))
            patched.enter_context(mock.patch.object(owner, attribute, call))
        yield seconds


@contextlib.contextmanager
def resident() -> Iterator[dict[str, int]]:
    """The most resident bytes until the first save begins, and since."""
    found = {'before': 0, 'since': 0}
    saved, ended = threading.Event(), threading.Event()
    save = checkpoint.Checkpoints.save

    def begin(*args, **keywords):
        saved.set()
        return save(*args, **keywords)

    def look():
        while not ended.wait(0.02):
            kind = 'since' if saved.is_set() else 'before'
            found[kind] = max(found[kind], load.resident('VmRSS'))

    thread = threading.Thread(target=look)
    with mock.patch.object(checkpoint.Checkpoints, 'save', begin):
        thread.start()
        try:
            yield found
        finally:
            ended.set()
            thread.join()


if __name__ == '__main__':
    main()
