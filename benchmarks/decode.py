"""Reading prompts, decoding, and continuous batching beside static batching.

    python -m benchmarks.decode [--preset cpu] [--rounds 5] [--json FILE]

Responses have geometric lengths, with a mean of a quarter of the longest: EOS has the
same probability at every token. Static batching decodes as many rows at a time as
there are slots, until the last has ended; both sample the same responses, which is
checked, and each is timed in turns. `bandwidth_fraction` is the time in which a step's
bytes (weights and cache, once) pass at the bandwidth measured in the same process, by
the time of a step in which all rows go on.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import types
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.rollout import scheduler
from benchmarks import iteration
from benchmarks import programs
from benchmarks import shapes

EOS = 1
BATCHES = 6  # of static batching


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=sorted(shapes.PRESETS), default='cpu')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    arguments = parser.parse_args()
    result = measure(shapes.PRESETS[arguments.preset], arguments.rounds)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')


def measure(shape: shapes.Shape, rounds: int) -> dict[str, Any]:
    """Tokens a second, ratios and shares of the machine's bounds."""
    bench = Decode(dataclasses.replace(shape, response=2 * shape.response))
    static, slots = bench.static(), bench.slots()  # both warm up
    check_same(static, slots)
    useful = int(np.sum(static.response_mask))
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in {
            'static': bench.static,
            'slots': bench.slots,
            'prefill': bench.prefill,
            'decode': bench.decode,
        }.items():
            found.setdefault(name, []).append(seconds(run))
        found.setdefault('bandwidth', []).append(bandwidth())
        found.setdefault('matmul', []).append(iteration.matmul_rate(shape.dtype))
    median = {name: statistics.median(each) for name, each in found.items()}
    pairs = list(zip(found['static'], found['slots'], strict=True))
    steps = bench.shape.response - 1
    step = (median['decode'] - median['prefill']) / steps
    return {
        'ratio': {'continuous_batching': median['static'] / median['slots']},
        'ratio_range': {
            'continuous_batching': sorted(a / b for a, b in pairs)[
                :: max(rounds - 1, 1)
            ]
        },
        'bandwidth_fraction': bench.bytes_per_step / median['bandwidth'] / step,
        'useful_tokens_per_second': {
            'static': useful / median['static'],
            'slots': useful / median['slots'],
        },
        'mean_response': useful / static.response_mask.shape[0],
        'longest_response': bench.shape.response,
        'seconds_per_step': step,
        'decode_tokens_per_second': shape.rows / step,
        'prefill_tokens_per_second': shape.rows * shape.prompt / median['prefill'],
        'prefill_mfu': bench.prefill_flops / median['prefill'] / median['matmul'],
        'bytes_per_step': bench.bytes_per_step,
        'bytes_per_second': median['bandwidth'],
        'compile_seconds': bench.compile_seconds,
        'machine': f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores',
        'python': platform.python_version(),
        'jax': jax.__version__,
    }


def check_same(static: types.Samples, slots: types.Samples) -> None:
    """Ends the program where a row differs between the two."""
    for name in ('tokens', 'response_mask', 'truncated'):
        a, b = np.asarray(getattr(static, name)), np.asarray(getattr(slots, name))
        if not np.array_equal(a, b):
            rows = np.flatnonzero(
                np.any(a.reshape(len(a), -1) != b.reshape(len(b), -1), 1)
            )
            raise SystemExit(f'{name} of rows {rows.tolist()} differ')
    gap = float(np.max(np.abs(np.asarray(static.logps) - np.asarray(slots.logps))))
    if not gap < 1e-3:
        raise SystemExit(f'log-probabilities differ by {gap}')


def seconds(run: Any) -> float:
    """What a call takes."""
    begun = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begun


def bandwidth() -> float:
    """Bytes a second, read and written, of a sum over large arrays."""
    count = 2**26 if jax.default_backend() == 'cpu' else 2**30
    x = jnp.ones(count, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = add(x).block_until_ready()
    begun = time.perf_counter()
    for _ in range(3):
        x = add(x)
    x.block_until_ready()
    return 3 * 2 * x.nbytes / (time.perf_counter() - begun)


class Decode:
    """Compiled programs of one shape, and prompts for them."""

    def __init__(self, shape: shapes.Shape):
        """Random weights, but for the bias that gives EOS its probability."""
        self.shape = shape
        self._model = transformer.CausalLM(programs.decoder(shape, head_bias=True))
        params = iteration.params(self._model, 0, shape.dtype)
        ends = 4 / shape.response
        # Fresh logits are nearly equal: e^bias over V tokens is the odds of an end.
        bias = math.log(ends / (1 - ends) * shape.vocab_size)
        params['lm_head']['bias'] = params['lm_head']['bias'].at[EOS].set(bias)
        self._params = jax.jit(transformer.unstack, static_argnums=1)(
            params, self._model.config
        )
        self.compile_seconds: dict[str, float] = {}
        self._prompts = prompts(shape, shape.rows * BATCHES)
        how: dict[str, Any] = {
            'model': self._model,
            'response_length': shape.response,
            'sampler': sampling.Sampler(),
            'pad_id': 0,
        }
        self._static = self._compiled('static', generate.generate, how, EOS)
        self._endless = self._compiled('decode', generate.generate, how, -1)
        self._begin = self._compiled('prefill', generate.begin, how, -1)
        self._settings = continuous.Settings(
            model=self._model,
            sampler=sampling.Sampler(),
            eos_ids=(EOS,),
            pad_id=0,
            slots=shape.rows,
            prompt_lengths=(shape.prompt,),
            response_length=shape.response,
            admitted=max(1, shape.rows // 8),
        )

    def _compiled(self, name, function, how, eos):
        begun = time.perf_counter()
        program = (
            jax.jit(functools.partial(function, **how, eos_ids=(eos,)))
            .lower(self._params, self._batch(0), jax.random.key(0))
            .compile()
        )
        self.compile_seconds[name] = time.perf_counter() - begun
        return program

    def _batch(self, index: int) -> types.PromptBatch:
        rows = self.shape.rows
        part = slice(index * rows, (index + 1) * rows)
        return jax.tree.map(lambda x: x[part], self._prompts)

    @property
    def bytes_per_step(self) -> int:
        """Weights and the whole cache, read once."""
        config = self._model.config
        cache = 2 * self.shape.rows * self.shape.length * config.num_layers
        cache *= config.num_kv_heads * config.head_dim
        leaves = jax.tree.leaves(self._params)
        weights = (
            sum(x.nbytes for x in leaves) - self._params['embed']['embedding'].nbytes
        )
        return weights + cache * jnp.dtype(config.dtype).itemsize

    @property
    def prefill_flops(self) -> float:
        """Matmuls of reading a batch of prompts, on paper."""
        shape = dataclasses.replace(self.shape, response=1)
        return shape.flops()['generate']

    def static(self) -> types.Samples:
        """All prompts, a batch at a time."""
        key = jax.random.key(1)
        found = [
            self._static(self._params, self._batch(i), key) for i in range(BATCHES)
        ]
        return jax.tree.map(lambda *x: np.concatenate(x), *found)

    def slots(self) -> types.Samples:
        """The same prompts by continuous batching."""
        return scheduler.respond(
            self._params, self._prompts, jax.random.key(1), settings=self._settings
        )

    def prefill(self) -> Any:
        """Reads a batch of prompts."""
        return self._begin(self._params, self._batch(0), jax.random.key(1))

    def decode(self) -> types.Samples:
        """One batch of the longest responses."""
        return self._endless(self._params, self._batch(0), jax.random.key(1))


def prompts(shape: shapes.Shape, rows: int) -> types.PromptBatch:
    """Random ids, as NumPy."""
    tokens: Any = np.random.default_rng(0).integers(
        2, shape.vocab_size, (rows, shape.prompt), np.int32
    )
    mask: Any = np.ones_like(tokens, bool)
    row: Any = np.arange(rows, dtype=np.int32)
    return types.PromptBatch(tokens, mask, row)


if __name__ == '__main__':
    main()
