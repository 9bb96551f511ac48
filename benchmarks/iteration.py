"""One iteration of PPO-Lagrangian, in turns with a rival in PyTorch.

    python -m benchmarks.iteration [--preset cpu] [--rounds 5] [--json FILE]

Both have models of one shape with random weights, and do the same: sample a response to
every prompt, score the samples, and update actor and critics once. The rival
(`torch_baseline.py`, which needs the extra `parity`) is a process of its own that waits
while this one works. Ratios above 1 say how many times faster we are. MFU is the work
on paper by the rate of a large matmul in the same process.
"""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from beaver_jax import multiplier
from beaver_jax import optim
from beaver_jax import types
from beaver_jax.models import config as config_lib
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import experience
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from benchmarks import shapes

Seconds = dict[str, float]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--preset', choices=sorted(shapes.PRESETS), default='cpu')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    arguments = parser.parse_args()
    result = compare(arguments.preset, arguments.rounds)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')


def compare(preset: str, rounds: int) -> dict[str, Any]:
    """Seconds by phase of both, their ratios, and what ours achieve."""
    shape = shapes.PRESETS[preset]
    ours = Iteration(shape)
    found: dict[str, list[Seconds]] = {'ours': [], 'torch': []}
    rates = []
    with rival(preset) as theirs:
        ours.run(), theirs()  # both warm up
        for _ in range(rounds):
            rates.append(matmul_rate(shape.dtype))
            found['torch'].append(with_total(theirs()))
            found['ours'].append(with_total(ours.run()))
    medians = {
        name: {
            phase: statistics.median(one[phase] for one in each) for phase in each[0]
        }
        for name, each in found.items()
    }
    rate = statistics.median(rates)
    pairs = list(zip(found['torch'], found['ours'], strict=True))
    return {
        'ratio': {
            phase: medians['torch'][phase] / medians['ours'][phase]
            for phase in medians['ours']
        },
        'ratio_range': {
            phase: sorted(t[phase] / o[phase] for t, o in pairs)[:: max(rounds - 1, 1)]
            for phase in medians['ours']
        },
        'seconds': medians,
        'mfu': {
            phase: flops / medians['ours'][phase] / rate
            for phase, flops in shape.flops().items()
        },
        'tokens_per_second': shape.rows * shape.response / medians['ours']['total'],
        'matmul_flops_per_second': rate,
        'compile_seconds': ours.compile_seconds,
        'temporary_bytes': ours.temporary_bytes,
        'machine': f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores',
        'python': platform.python_version(),
        'jax': jax.__version__,
    }


def with_total(seconds: Seconds) -> Seconds:
    """The same and their sum."""
    return seconds | {'total': sum(seconds.values())}


def matmul_rate(dtype: str) -> float:
    """FLOP/s of a large square matmul."""
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    begun = time.perf_counter()
    for _ in range(3):
        multiply(x, x).block_until_ready()
    return 3 * 2 * size**3 / (time.perf_counter() - begun)


@contextlib.contextmanager
def rival(preset: str) -> Iterator[Callable[[], Seconds]]:
    """Runs an iteration of the rival whenever it is called."""
    command = [sys.executable, '-m', 'benchmarks.torch_baseline', f'--preset={preset}']
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        into, out = process.stdin, process.stdout

        def run() -> Seconds:
            print('go', file=into, flush=True)
            line = out.readline()
            if not line:
                raise SystemExit(
                    'benchmarks.torch_baseline ended; see its error above.'
                )
            return json.loads(line)

        yield run
        into.close()


class Iteration:
    """Our programs, compiled, and the parameters of six models."""

    def __init__(self, shape: shapes.Shape):
        """Random weights, and compilation."""
        decoder = config_lib.TransformerConfig(
            vocab_size=shape.vocab_size,
            embed_dim=shape.embed_dim,
            num_layers=shape.num_layers,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.embed_dim // shape.num_heads,
            mlp_dim=shape.mlp_dim,
            max_positions=shape.length,
            dtype=shape.dtype,
        )
        policy = transformer.CausalLM(decoder)
        scorer = score.ScoreModel(config_lib.ScoreConfig(decoder, score_type='critic'))
        optimizers = ppo_lag.Optimizers(
            adamw(),
            adamw(),
            optax.chain(optax.scale(0.1), multiplier.projected_ascent(5.0)),
        )
        self._frozen = {
            'reference': params(policy, 1, shape.dtype),
            'reward': params(scorer, 2, shape.dtype),
            'costs': {'harm': params(scorer, 3, shape.dtype)},
        }
        learning = {
            'actor': params(policy, 0),
            'reward_critic': params(scorer, 4),
            'cost_critics': {'harm': params(scorer, 5)},
        }
        self._state = ppo_lag.init(
            learning,
            optimizers,
            multipliers={'harm': 1.0},
            costs=('harm',),
            window=shape.rows,
        )
        tokens = jax.random.randint(
            jax.random.key(0), (shape.rows, shape.prompt), 1, shape.vocab_size
        )
        self._prompts = types.PromptBatch(
            tokens, jnp.ones_like(tokens, bool), jnp.arange(shape.rows)
        )
        self._compile(shape, policy, scorer, optimizers)

    def _compile(self, shape, policy, scorer, optimizers) -> None:
        def end(params, tokens, mask):
            ends = score.ends(mask)
            return scorer.apply({'params': params}, tokens, mask, wanted=ends)[:, 0]

        functions: dict[str, Callable[..., Any]] = {
            'generate': functools.partial(
                generate.generate,
                model=policy,
                response_length=shape.response,
                sampler=sampling.Sampler(),
                eos_ids=(shape.vocab_size,),  # is never sampled
                pad_id=0,
            ),
            'score': functools.partial(
                experience.score_samples,
                scorers=experience.Scorers(
                    policy,
                    end,
                    {'harm': end},
                    {'harm': experience.Cost('harm')},
                    scorer,
                    {'harm': scorer},
                ),
                temperature=1.0,
                values=False,  # the update says them
            ),
            'update': functools.partial(
                ppo_lag.ppo_lag_step,
                networks=ppo_lag.Networks(policy, scorer, {'harm': scorer}),
                optimizers=optimizers,
                config=ppo_config.PPOConfig(),
                thresholds={'harm': 0.0},
            ),
        }
        self._programs: dict[str, Any] = {}
        self.compile_seconds: Seconds = {}
        samples = jax.eval_shape(functions['generate'], *self._arguments('generate'))
        found = jax.eval_shape(functions['score'], *self._arguments('score', samples))
        given = {'generate': None, 'score': samples, 'update': found}
        for phase in shapes.PHASES:
            donated = (0,) if phase == 'update' else ()
            begun = time.perf_counter()
            self._programs[phase] = (
                jax.jit(functions[phase], donate_argnums=donated)
                .lower(*self._arguments(phase, given[phase]))
                .compile()
            )
            self.compile_seconds[phase] = time.perf_counter() - begun
        self.temporary_bytes = {
            phase: program.memory_analysis().temp_size_in_bytes
            for phase, program in self._programs.items()
        }

    def _arguments(self, phase: str, given: Any = None) -> tuple[Any, ...]:
        state = self._state
        if phase == 'generate':
            return state.actor.params, self._prompts, jax.random.key(1)
        if phase == 'update':
            return state, (given, None), jax.random.key(2)
        critics = {
            'reward_critic': state.reward_critic.params,
            'cost_critics': {n: c.params for n, c in state.cost_critics.items()},
        }
        return self._frozen | critics, given

    def run(self) -> Seconds:
        """Seconds by phase of one iteration."""
        seconds: Seconds = {}
        given: Any = None
        for phase in shapes.PHASES:
            arguments = self._arguments(phase, given)
            begun = time.perf_counter()
            given = jax.block_until_ready(self._programs[phase](*arguments))
            seconds[phase] = time.perf_counter() - begun
        self._state, _ = given
        return seconds


def adamw() -> optax.GradientTransformation:
    """That of every run, at a constant rate."""
    return optim.make_optimizer(
        optim.OptimizerConfig(learning_rate=1e-5, schedule='constant'), 1000
    )


def params(model: Any, seed: int, dtype: str = 'float32') -> Any:
    """Fresh parameters."""
    example = jnp.zeros((1, 2), int), jnp.ones((1, 2), bool)

    def init(key):
        drawn = model.init(key, *example)['params']
        return jax.tree.map(lambda x: x.astype(dtype), drawn)

    return jax.jit(init)(jax.random.key(seed))


if __name__ == '__main__':
    main()
