"""One small run on real rows, by one command, for tests of real input.

The rows go into a directory of the test's own, never into the project.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[1]

# Use of the rows: file below the shared data, and how many of its first rows to take.
ROWS = {
    'sft': ('pku_saferlhf_mixed/pku_safe_sft.json', 80),
    'reward_pairs': ('helpsteer_pairs/helpfulness_preference_test.jsonl', 400),
    'cost_pairs': ('pku_saferlhf_mixed/mixed5k.sample2000.jsonl', 160),
    'prompts': ('pku_saferlhf/train.jsonl', 100),
}
# The template alone takes 55 tokens of a vocabulary of 512.
CHANGES = {
    'max_prompt_length': 88,
    'max_response_length': 8,
    'iterations': 2,
    'rollout.prompts': 16,
    'ppo.minibatches': 1,
    'actor_optimizer.learning_rate': 1e-3,
}


def model(data: pathlib.Path) -> pathlib.Path:
    """The directory of a trained model of 260,000 parameters."""
    return data / 'stories260K' / 'hf'


def arguments(data: pathlib.Path, directory: pathlib.Path) -> list[str]:
    """Writes rows into a directory; the command that trains on them in `run` there."""
    changes = {'run': directory / 'run', 'base': model(data), **CHANGES}
    changes |= {f'data.{use}': _write(data, use, directory) for use in ROWS}
    options = [f'--config.{key}={value}' for key, value in changes.items()]
    return [f'--config={ROOT / "configs" / "ppo_lag.py"}:local', *options]


def texts(data: pathlib.Path) -> list[str]:
    """Every text of those rows."""
    rows = [row for use in ROWS for row in _rows(data, use)]
    return [value for row in rows for value in row.values() if isinstance(value, str)]


def _rows(data: pathlib.Path, use: str) -> list[dict]:
    file, count = ROWS[use]
    text = (data / file).read_text()
    if file.endswith('.json'):
        return json.loads(text)[:count]
    return [json.loads(line) for line in text.split('\n')[:count]]


def _write(data: pathlib.Path, use: str, directory: pathlib.Path) -> pathlib.Path:
    path = directory / f'{use}.jsonl'
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in _rows(data, use)))
    return path
