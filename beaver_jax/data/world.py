"""The built-in world: data for the whole chain, from a seed and nothing else.

Rows are in PKU-SafeRLHF's schema. Half of the prompts ask for something risky, and
there the most helpful answer is harmful, so that a policy has to choose. Preferences
are drawn from the gold scores of `world_text` with Bradley-Terry noise, helpfulness and
harm apart.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from beaver_jax.data import bpe
from beaver_jax.data import template
from beaver_jax.data import world_answers
from beaver_jax.data import world_text
from beaver_jax.data.world_text import Topic
from beaver_jax.data.world_text import cost
from beaver_jax.data.world_text import helpfulness
from beaver_jax.data.world_text import is_benign

__all__ = [
    'Sizes',
    'World',
    'cost',
    'generate',
    'helpfulness',
    'is_benign',
    'write',
]

# Slopes of the Bradley-Terry choices. With them the labels agree with the gold scores
# nine times in ten.
HELPFULNESS_SLOPE = 1.2
COST_SLOPE = 4.0
SAFETY_FLIPPED_SHARE = 0.01  # of is_response_i_safe labels

_VERSION = 1  # of the rows: worlds that another version wrote are not taken for this

Row = dict[str, Any]
Ask = tuple[str, Topic]  # a prompt and what it asks for


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of rows. A held-out prompt stands in one row and nowhere else."""

    sft_train: int = 3000
    pairs_train: int = 8000
    pairs_test: int = 500
    prompts_train: int = 1600
    prompts_test: int = 256


VOCABULARY = 384  # of its tokenizer
DEFAULT_SIZES = Sizes()


@dataclasses.dataclass(frozen=True)
class World:
    """Rows of {prompt, response}, of PKU-SafeRLHF's seven columns, and of {prompt}."""

    sft_train: list[Row]
    pairs_train: list[Row]
    pairs_test: list[Row]
    prompts_train: list[Row]
    prompts_test: list[Row]


def generate(seed: int, sizes: Sizes = DEFAULT_SIZES) -> World:
    """Draws a world. The same seed and sizes give the same rows.

    Raises:
      ValueError: a size is negative, or the prompts do not suffice for the tests.
    """
    rng = np.random.default_rng(seed)
    asks = _draw_asks(sizes, rng)
    return World(
        sft_train=[_sft_row(ask, rng) for ask in asks['sft_train']],
        pairs_train=[_pair_row(ask, rng) for ask in asks['pairs_train']],
        pairs_test=[_pair_row(ask, rng) for ask in asks['pairs_test']],
        prompts_train=[{'prompt': prompt} for prompt, _ in asks['prompts_train']],
        prompts_test=[{'prompt': prompt} for prompt, _ in asks['prompts_test']],
    )


def write(
    directory: str | os.PathLike[str],
    seed: int,
    sizes: Sizes = DEFAULT_SIZES,
    *,
    vocab_size: int = VOCABULARY,
) -> None:
    """Writes a world and its tokenizer, whole or not at all.

    The directory gets sft.jsonl, pairs_train.jsonl, pairs_test.jsonl,
    prompts_train.jsonl, prompts_test.jsonl, tokenizer/ and world.json, which says what
    the rest was made from. If the same world is there already, nothing happens.

    Raises:
      ValueError: another world, or something else, is there.
    """
    path = pathlib.Path(directory)
    made_from = {
        'seed': seed,
        'sizes': dataclasses.asdict(sizes),
        'vocab_size': vocab_size,
        'version': _VERSION,
    }
    if _is_written(path, made_from):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.unfinished')
    unfinished.mkdir()
    try:
        _write_files(unfinished, generate(seed, sizes), vocab_size)
        (unfinished / 'world.json').write_text(json.dumps(made_from, indent=2) + '\n')
        unfinished.rename(path)
    except OSError:
        # Another process may have been first, with the same world.
        if not _is_written(path, made_from):
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw_asks(sizes: Sizes, rng: np.random.Generator) -> dict[str, list[Ask]]:
    """Prompts for all rows; in each part every second one is risky.

    Held-out prompts come first, and each but once. Training rows draw from the rest.
    """
    counts = dataclasses.asdict(sizes)
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f'sizes.{name}={count} is negative; use 0 or more.')
    pools = [
        _shuffled(_asks(kind), rng) for kind in (world_text.RISKY, world_text.BENIGN)
    ]
    shuffled = list(itertools.chain.from_iterable(zip(*pools, strict=True)))
    held_out = counts['pairs_test'] + counts['prompts_test']
    if held_out > len(shuffled) // 2:
        raise ValueError(
            f'sizes.pairs_test + sizes.prompts_test = {held_out}, but the world knows '
            f'{len(shuffled)} prompts and keeps half of them for training; use fewer.'
        )
    rest = iter(shuffled)
    tests = {n: list(itertools.islice(rest, counts[n])) for n in counts if 'test' in n}
    rest = itertools.cycle(list(rest))
    return {
        name: tests[name] if name in tests else list(itertools.islice(rest, count))
        for name, count in counts.items()
    }


def _asks(topics: Iterable[Topic]) -> list[Ask]:
    """All prompts that ask for one of the topics."""
    return [
        (f'{opener}, {question.format(request)}{closer}?', topic)
        for topic in topics
        for request in topic.requests
        for opener, question, closer in itertools.product(
            world_text.OPENERS, world_text.QUESTIONS, world_text.CLOSERS
        )
    ]


def _shuffled(asks: Sequence[Ask], rng: np.random.Generator) -> list[Ask]:
    return [asks[i] for i in rng.permutation(len(asks))]


def _sft_row(ask: Ask, rng: np.random.Generator) -> Row:
    prompt, topic = ask
    return {'prompt': prompt, 'response': world_answers.demonstration(topic, rng)}


def _pair_row(ask: Ask, rng: np.random.Generator) -> Row:
    prompt, topic = ask
    helpful = [0.0, 0.0]
    while helpful[0] == helpful[1]:  # nobody would be asked to choose between these
        responses = world_answers.pair(topic, rng)
        helpful = [helpfulness(prompt, response) for response in responses]
    harm = [cost(prompt, response) for response in responses]
    safe = [bool((c <= 0) != (rng.random() < SAFETY_FLIPPED_SHARE)) for c in harm]
    return {
        'prompt': prompt,
        'response_0': responses[0],
        'response_1': responses[1],
        'is_response_0_safe': safe[0],
        'is_response_1_safe': safe[1],
        'better_response_id': _choose(
            HELPFULNESS_SLOPE * (helpful[1] - helpful[0]), rng
        ),
        'safer_response_id': _choose(COST_SLOPE * (harm[0] - harm[1]), rng),
    }


def _choose(logit: float, rng: np.random.Generator) -> int:
    """1 with probability σ(logit), else 0."""
    return int(rng.random() < 1 / (1 + math.exp(-logit)))


def _is_written(path: pathlib.Path, made_from: Row) -> bool:
    """Whether this world is in `path`; anything else there is an error."""
    if not path.exists():
        return False
    try:
        found = dict(json.loads((path / 'world.json').read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f'{path} is there but holds no world; name another directory or remove it.'
        ) from None
    differences = [
        f'{key}={found.get(key)} instead of {value}'
        for key, value in made_from.items()
        if found.get(key) != value
    ]
    if differences:
        raise ValueError(
            f'{path} holds another world ({", ".join(differences)}); name another '
            'directory, or remove this one and all that was trained on it.'
        )
    return True


def _write_files(directory: pathlib.Path, world: World, vocab_size: int) -> None:
    files = {
        'sft': world.sft_train,
        'pairs_train': world.pairs_train,
        'pairs_test': world.pairs_test,
        'prompts_train': world.prompts_train,
        'prompts_test': world.prompts_test,
    }
    for name, rows in files.items():
        lines = ''.join(json.dumps(row) + '\n' for row in rows)
        (directory / f'{name}.jsonl').write_text(lines)
    bpe.train(_conversations(world), directory / 'tokenizer', vocab_size=vocab_size)


def _conversations(world: World) -> list[str]:
    """What the tokenizer learns from: every training row in the template."""
    answers = [(row['prompt'], row['response']) for row in world.sft_train]
    answers += [
        (row['prompt'], row[response])
        for row in world.pairs_train
        for response in ('response_0', 'response_1')
    ]
    return [template.format_prompt((p,), eos='') + answer for p, answer in answers]
