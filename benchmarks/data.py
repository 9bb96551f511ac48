"""From rows of text to batches of tokens: speed, and memory for a large file.

    python -m benchmarks.data --rows ROWS --tokenizer DIRECTORY [--json FILE]
    python -m benchmarks.data --gigabytes 1 --tokenizer DIRECTORY [--json FILE]

The first compares `sources` and `batches`, packed, with safe-rlhf's way in a plain
loop: the prompt, and the prompt with its response, are encoded row by row with the same
tokenizer, and padded. Both begin with a file and end with an epoch of batches, in
turns. The file has the rows as often as 10,000 need, with other numbers before their
texts each time, also in each round: tokenizers remember texts, and a run encodes each
of them once.

The second writes a jsonl file of that size, reads, tokenizes and packs it in a process
of its own, takes batches of it, and tells that process's peak of resident memory.
"""

import argparse
from collections.abc import Iterator
import json
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from beaver_jax.data import batches
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib

BATCH_SIZE = 32
LEAST = 10_000  # rows that are compared on
SOME_BATCHES = 200  # that are taken of a large file
WORDS = 20_000  # different ones in it


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--rows', type=pathlib.Path, help='file with prompts and responses'
    )
    parser.add_argument('--gigabytes', type=float, help='size of a file to be made')
    parser.add_argument('--tokenizer', required=True, help='directory')
    parser.add_argument('--max_length', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', type=pathlib.Path, help='also writes the result here')
    parser.add_argument('--read', help=argparse.SUPPRESS)  # the process that reads
    arguments = parser.parse_args()
    if arguments.read:
        found = read_large(arguments.read, arguments.tokenizer, arguments.max_length)
    elif arguments.gigabytes:
        found = large(arguments.gigabytes, arguments.tokenizer, arguments.max_length)
    else:
        found = speed(
            arguments.rows, arguments.tokenizer, arguments.max_length, arguments.rounds
        )
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + '\n')


def speed(
    path: pathlib.Path, tokenizer: str, max_length: int, rounds: int
) -> dict[str, Any]:
    """Seconds from a file to an epoch of batches, in both ways."""
    loaded = tokenizer_lib.load(tokenizer)
    found = read(path)
    times = -(-LEAST // len(found))

    def ours(path: pathlib.Path) -> int:
        counts = rows.Counts()
        records = sources.demonstrations(path, counts=counts)
        stream = batches.sft(
            records,
            loaded,
            max_length=max_length,
            batch_size=BATCH_SIZE,
            pack=True,
            counts=counts,
        )
        epoch = -(-counts['packed'] // BATCH_SIZE)
        return sum(int(stream[i].mask.sum()) for i in range(epoch))

    def plain(path: pathlib.Path) -> int:
        made = plain_batches(path, loaded, max_length)
        return sum(int(mask.sum()) for _, mask, _ in made)

    both = [('ours', ours), ('plain', plain)]
    seconds: dict[str, list[float]] = {'ours': [], 'plain': []}
    tokens = {}
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory) / 'rows.jsonl'
        for i in range(-1, rounds):
            # The first round is not counted.
            write_numbered(found, range(i * times, (i + 1) * times), file)
            both.reverse()  # each begins every other round
            for name, run in both:
                begun = time.perf_counter()
                tokens[name] = run(file)
                if i >= 0:
                    seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        'ratio': medians['plain'] / medians['ours'],
        'ratios': [
            p / o for p, o in zip(seconds['plain'], seconds['ours'], strict=True)
        ],
        'seconds': medians,
        'rows': times * len(found),
        # Of our last batch some are the next epoch's.
        'tokens': tokens,
        **machine(),
    }


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """All rows of a .json or .jsonl file."""
    with path.open() as file:
        return json.load(file) if path.suffix == '.json' else [*map(json.loads, file)]


def write_numbered(
    found: list[dict[str, str]], numbers: range, path: pathlib.Path
) -> None:
    """Writes rows once for each number, which stands before prompt and response."""
    names = {'prompt', 'response', 'instruction', 'output'}
    with path.open('w') as file:
        for number in numbers:
            for row in found:
                said = {name: f'{number}: {row[name]}' for name in names & row.keys()}
                file.write(json.dumps(row | said) + '\n')


def plain_batches(
    path: pathlib.Path, tokenizer: Any, max_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As safe-rlhf does it: prompt, and prompt with response, row by row, padded."""
    found = read(path)

    def encode(text: str) -> np.ndarray:
        cut = tokenizer(
            text, max_length=max_length, truncation=True, return_tensors='np'
        )
        return cut['input_ids'][0]

    for start in range(0, len(found), BATCH_SIZE):
        pairs = []
        for row in found[start : start + BATCH_SIZE]:
            asked = row.get('prompt') or f'{row["instruction"]} {row["input"]}'.strip()
            prompt = template.format_prompt((asked,), tokenizer.eos_token)
            response = row.get('response') or row['output']
            ids = encode(prompt + response + tokenizer.eos_token)
            pairs.append((ids, len(encode(prompt))))
        sizes = np.array([(len(ids), prompt) for ids, prompt in pairs])
        place = np.arange(sizes[:, 0].max())
        tokens = np.full((len(pairs), len(place)), tokenizer.pad_token_id)
        for padded, (ids, _) in zip(tokens, pairs, strict=True):
            padded[: len(ids)] = ids
        mask = place < sizes[:, :1]
        yield tokens, mask, mask & (place >= sizes[:, 1:])


def large(gigabytes: float, tokenizer: str, max_length: int) -> dict[str, Any]:
    """Makes a file, reads it in a process of its own, and reports that process."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / 'rows.jsonl'
        count = write_large(path, int(gigabytes * 1e9))
        size = path.stat().st_size
        command = [sys.executable, '-m', 'benchmarks.data', f'--read={path}']
        command += [f'--tokenizer={tokenizer}', f'--max_length={max_length}']
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return {'bytes': size, 'rows': count, **found, **machine()}


def write_large(path: pathlib.Path, size: int) -> int:
    """Writes rows of made-up words until the file has a size; returns their number."""
    random = np.random.default_rng(0)
    letters = np.array(list('abcdefghijklmnoprstuvwy'))
    words = [
        ''.join(random.choice(letters, random.integers(2, 9))) for _ in range(WORDS)
    ]
    written = count = 0
    with path.open('w') as file:
        while written < size:
            lengths = random.integers(5, 40), random.integers(20, 260)
            prompt, response = (
                ' '.join(words[i] for i in random.integers(0, WORDS, length))
                for length in lengths
            )
            row = {'prompt': f'{count}: {prompt}?', 'response': response}
            written += file.write(json.dumps(row) + '\n')
            count += 1
    return count


def read_large(path: str, tokenizer: str, max_length: int) -> dict[str, Any]:
    """Reads, tokenizes and packs a file, takes some batches, and tells the memory."""
    loaded = tokenizer_lib.load(tokenizer)
    before = peak()
    begun = time.perf_counter()
    counts = rows.Counts()
    records = sources.demonstrations(path, counts=counts)
    train, _ = sources.held_out(records, 0.01, 0)
    have_read = time.perf_counter() - begun
    stream = batches.sft(
        train,
        loaded,
        max_length=max_length,
        batch_size=BATCH_SIZE,
        pack=True,
        counts=counts,
    )
    have_packed = time.perf_counter() - begun - have_read
    begun = time.perf_counter()
    for i in range(SOME_BATCHES):
        stream[i]
    return {
        'peak_bytes': peak(),
        'peak_bytes_before': before,
        'seconds': {
            'read': have_read,
            'tokenize_and_pack': have_packed,
            'batch': (time.perf_counter() - begun) / SOME_BATCHES,
        },
        'tokens': counts['tokens'],
    }


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {'python': platform.python_version(), 'machine': platform.machine()}


if __name__ == '__main__':
    main()
