"""Scoring and learning from samples of skewed lengths: padded, and in packs.

    python -m benchmarks.packs [--preset cpu] [--sizes 4] [--rounds 5] [--json FILE]

Responses have geometric lengths, with a mean of a quarter of the longest, prompts any
length up to the longest. The programs are those of `benchmarks.iteration`, once for
padded rows and once for packs, in turns; packing, on the host, is timed apart.
Ratios above 1 say how many times faster packs are. Both must find the same rewards and
the same losses.
"""

import argparse
from collections.abc import Callable
import json
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
from beaver_jax.rollout import packs as packs_lib
from beaver_jax.steps import ppo_lag
from benchmarks import iteration
from benchmarks import programs
from benchmarks import shapes

KEY = jax.random.key(2)  # of the update, which shuffles rows
KINDS = ('padded', 'packed')


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=sorted(shapes.PRESETS), default='cpu')
    parser.add_argument('--sizes', type=int, default=4, help='of packs, as pack_sizes')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    arguments = parser.parse_args()
    shape = shapes.PRESETS[arguments.preset]
    result = measure(shape, arguments.sizes, arguments.rounds)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')


def measure(shape: shapes.Shape, sizes: int, rounds: int) -> dict[str, Any]:
    """Seconds of scoring and update in both ways, and how many times faster packs are.

    Args:
      shape: Of models and samples.
      sizes: How many numbers of packs there are programs for.
      rounds: Of which medians are taken, after one that is not counted.
    """
    bench = Bench(shape, sizes)
    found: dict[str, list[float]] = {}
    for i in range(-1, rounds):
        for kind in KINDS:
            for phase, seconds in bench.run(kind).items():
                if i >= 0:
                    found.setdefault(f'{phase} {kind}', []).append(seconds)
    bench.check_same()
    median = {name: statistics.median(each) for name, each in found.items()}
    ratios = {
        phase: [
            a / b
            for a, b in zip(
                found[f'{phase} padded'], found[f'{phase} packed'], strict=True
            )
        ]
        for phase in ('score', 'update')
    }
    return {
        'ratio': {
            phase: median[f'{phase} padded'] / median[f'{phase} packed']
            for phase in ratios
        },
        'ratio_range': {phase: [min(x), max(x)] for phase, x in ratios.items()},
        'seconds': median,
        'padding': 1 - float(np.mean(bench.samples.mask)),
        'packs': {kind: x.source.shape[-2] for kind, x in bench.packs.items()},
        'rows': shape.rows,
        'machine': f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores',
        'python': platform.python_version(),
        'jax': jax.__version__,
    }


class Bench:
    """Samples, models, and what both ways have found last."""

    def __init__(self, shape: shapes.Shape, sizes: int):
        """Random weights and samples; nothing is compiled."""
        self._shape, self._sizes = shape, sizes
        self._made = made = programs.Programs(shape)
        seeds = iter(range(6))

        def params(model, dtype='float32'):
            return iteration.params(model, next(seeds), dtype)

        self._frozen = {
            'reference': params(made.policy, shape.dtype),
            'reward': params(made.scorer, shape.dtype),
            'costs': {'harm': params(made.scorer, shape.dtype)},
        }
        self._learning = {
            'actor': params(made.policy),
            'reward_critic': params(made.scorer),
            'cost_critics': {'harm': params(made.scorer)},
        }
        self._functions = {
            'score': jax.jit(made.functions['score']),
            'update': jax.jit(made.functions['update'], donate_argnums=0),
        }
        self.samples = sampled(shape)
        self.packs: dict[str, types.Packs] = {}
        self._results: dict[str, Any] = {}

    def run(self, kind: str) -> dict[str, float]:
        """Seconds by phase; the update is always the first of these models."""
        found: dict[str, float] = {}
        samples, to_learn = self.samples, None
        if kind == 'packed':
            found['packing'], self.packs = timed(self._pack)
            samples = samples.replace(packs=self.packs['score'])
            to_learn = self.packs['update']
        state = self._made.init(jax.tree.map(jnp.copy, self._learning))
        arguments = self._made.arguments(
            'score', state, self._frozen, None, samples, None
        )
        found['score'], scored = timed(self._functions['score'], *arguments)
        batch = (ppo_lag.with_packs(scored, to_learn), None)
        found['update'], (_, metrics) = timed(
            self._functions['update'], state, batch, KEY
        )
        self._results[kind] = {'reward': scored.reward, **metrics}
        return found

    def _pack(self) -> dict[str, types.Packs]:
        orders = ppo_lag.minibatch_orders(
            KEY, self._shape.rows, self._made.coefficients
        )
        rows = np.arange(self._shape.rows)[None]
        lengths = jax.device_get(self.samples)

        def made(order):
            return packs_lib.pack(
                lengths,
                order,
                devices=1,
                parts=self._shape.chunks,
                sizes=self._sizes,
            )

        return {
            'score': jax.tree.map(lambda x: jnp.asarray(x[0]), made(rows)),
            'update': jax.tree.map(jnp.asarray, made(np.asarray(orders))),
        }

    def check_same(self) -> None:
        """Ends the program where both ways found something else."""
        padded, packed = (self._results[kind] for kind in KINDS)
        for name in padded.keys() | packed.keys():
            try:
                np.testing.assert_allclose(
                    packed[name], padded[name], rtol=1e-3, atol=1e-6
                )
            except (AssertionError, KeyError) as error:
                raise SystemExit(f'{name} differs: {error}') from error


def sampled(shape: shapes.Shape) -> types.Samples:
    """Samples of random tokens: prompts end, and responses begin, at column P."""
    random = np.random.default_rng(0)
    prompts = random.integers(1, shape.prompt + 1, shape.rows)
    responses = random.geometric(4 / shape.response, shape.rows)
    ended = responses <= shape.response
    responses = np.minimum(responses, shape.response)
    place = np.arange(shape.length) - shape.prompt
    mask = (place >= -prompts[:, None]) & (place < responses[:, None])
    tokens = random.integers(1, shape.vocab_size, mask.shape)
    return types.Samples(
        tokens=jnp.asarray(np.where(mask, tokens, 0), jnp.int32),
        mask=jnp.asarray(mask),
        response_mask=jnp.asarray(mask[:, shape.prompt :]),
        # As of a uniform policy; both ways read the same.
        logps=jnp.full(
            (shape.rows, shape.response), -float(np.log(shape.vocab_size)), jnp.float32
        ),
        truncated=jnp.asarray(~ended),
    )


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """(seconds, results) of a call."""
    begun = time.perf_counter()
    found = jax.block_until_ready(function(*args))
    return time.perf_counter() - begun, found


if __name__ == '__main__':
    main()
