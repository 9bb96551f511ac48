"""Real tokens a second: packed SFT, and pairs in buckets, beside one row a sequence.

    python -m benchmarks.packing --tokenizer DIRECTORY [--sft ROWS] [--pairs ROWS]
        [--max_length 512] [--batch_size 8] [--buckets 4] [--rounds 5] [--json FILE]

Times training steps of a small model on the first batch of every shape that there is.
An epoch is so many steps of each shape; padding is none of the tokens that count. The
shapes take turns, so that what else the machine does slows all of them; a step's time
is the median of the rounds.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
import functools
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import jax

from beaver_jax import optim
from beaver_jax.data import batches
from beaver_jax.data import examples
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import config as config_lib
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.steps import preference
from beaver_jax.steps import sft

SIZES: dict[str, Any] = {
    'embed_dim': 128,
    'num_layers': 4,
    'num_heads': 4,
    'num_kv_heads': 4,
    'head_dim': 32,
    'mlp_dim': 384,
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--tokenizer', required=True, help='directory of a tokenizer')
    parser.add_argument('--sft', type=pathlib.Path, help='demonstrations')
    parser.add_argument('--pairs', type=pathlib.Path, help='pairs, the better known')
    parser.add_argument('--max_length', type=int, default=512)
    parser.add_argument('--batch_size', type=int, default=8)
    parser.add_argument('--buckets', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    arguments = parser.parse_args()
    tokenizer = tokenizer_lib.load(arguments.tokenizer)
    config = config_lib.TransformerConfig(
        vocab_size=len(tokenizer), max_positions=arguments.max_length, **SIZES
    )
    result: dict[str, Any] = {
        'max_length': arguments.max_length,
        'batch_size': arguments.batch_size,
        'vocabulary': len(tokenizer),
    }
    if arguments.sft:
        result['sft'] = packed_sft(arguments, tokenizer, config)
    if arguments.pairs:
        result['pairs'] = bucketed_pairs(arguments, tokenizer, config)
    result |= {
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'jax': jax.__version__,
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')


def packed_sft(
    arguments: argparse.Namespace, tokenizer: Any, config: config_lib.TransformerConfig
) -> dict[str, Any]:
    """Supervised rows, alone and packed."""
    counts = sources.Counts()
    make = functools.partial(
        batches.sft,
        sources.demonstrations(arguments.sft),
        tokenizer,
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
    )
    streams = {'single': make(), 'packed': make(pack=True, counts=counts)}
    model = transformer.CausalLM(config)
    step = functools.partial(sft.sft_step, model=model, optimizer=optimizer())
    state = sft.init(params(model), optimizer())
    seconds = medians(
        step, state, {name: x[0] for name, x in streams.items()}, arguments.rounds
    )
    sequences = {'single': counts['examples'], 'packed': counts['packed']}
    epochs = {
        name: number / arguments.batch_size * seconds[name]
        for name, number in sequences.items()
    }
    area = counts['packed'] * arguments.max_length
    return compared(counts['tokens'], epochs['single'], epochs['packed']) | {
        'rows': counts['examples'],
        'sequences': counts['packed'],
        'efficiency': round(counts['tokens'] / area, 4),
        'seconds_of_a_step': {name: round(x, 3) for name, x in seconds.items()},
    }


def bucketed_pairs(
    arguments: argparse.Namespace, tokenizer: Any, config: config_lib.TransformerConfig
) -> dict[str, Any]:
    """Pairs for a reward model, padded to one length and in buckets."""
    counts = sources.Counts()
    records = sources.comparisons(arguments.pairs, need='better')
    single = batches.pairs(
        records,
        tokenizer,
        preferred='better',
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
    )
    found = examples.encode_pairs(
        records,
        tokenizer,
        preferred='better',
        max_length=arguments.max_length,
        counts=counts,
    )
    stream, buckets = batches.bucketed_pairs(
        found,
        pad=tokenizer.pad_token_id,
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
        buckets=arguments.buckets,
        counts=counts,
    )
    lengths = [buckets.batch(i)[0] for i in range(len(buckets))]
    firsts = {str(x): stream[lengths.index(x)] for x in buckets.lengths}
    # Batches of one shape take the same time, whatever stream they are from.
    longest = str(arguments.max_length)
    firsts.setdefault(longest, single[0])
    model = score.ScoreModel(config_lib.ScoreConfig(config))
    step = functools.partial(
        preference.preference_step,
        model=model,
        optimizer=optimizer(),
        config=preference.PreferenceConfig('reward'),
        fillers=True,
    )
    state = preference.init(params(model), score.init_normalizer(1), optimizer())
    seconds = medians(step, state, firsts, arguments.rounds)
    number = Counter(lengths)
    bucketed = sum(number[x] * seconds[str(x)] for x in buckets.lengths)
    plain = counts['examples'] / arguments.batch_size * seconds[longest]
    area = counts['examples'] * 2 * arguments.max_length
    return compared(counts['tokens'], plain, bucketed) | {
        'pairs': counts['examples'],
        'lengths': buckets.lengths,
        'padding': round(1 - counts['tokens'] / area, 4),
        'padding_in_buckets': round(1 - counts['tokens'] / (2 * buckets.positions), 4),
        'seconds_by_length': {name: round(x, 3) for name, x in seconds.items()},
    }


def compared(tokens: int, before: float, after: float) -> dict[str, Any]:
    """Tokens a second of two ways through the same tokens, in so many seconds."""
    return {
        'tokens_per_second': {
            'before': round(tokens / before),
            'after': round(tokens / after),
        },
        'ratio': round(before / after, 2),
    }


def optimizer() -> Any:
    """That of every run, at a constant rate."""
    return optim.make_optimizer(
        optim.OptimizerConfig(learning_rate=1e-4, schedule='constant'), 100
    )


def params(model: Any) -> Any:
    """Fresh parameters."""
    example = jax.numpy.zeros((1, 2), int), jax.numpy.ones((1, 2), bool)
    return jax.jit(model.init)(jax.random.key(0), *example)['params']


def medians(
    step: Any, state: Any, firsts: Mapping[str, Any], rounds: int
) -> dict[str, float]:
    """Seconds of a step on each of some batches, which take turns."""
    key = jax.random.key(0)
    compiled = {
        name: jax.jit(step).lower(state, batch, key).compile()
        for name, batch in firsts.items()
    }
    times: dict[str, list[float]] = {name: [] for name in firsts}
    for done in range(rounds + 1):
        for name, batch in firsts.items():
            begun = time.perf_counter()
            jax.block_until_ready(compiled[name](state, batch, key))
            if done:  # the first round warms up
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == '__main__':
    main()
