"""What an evaluation is of, as digests: by them it is known whether it is the same."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import ml_collections

from beaver_jax.data import sources
from beaver_jax.stages import inputs


def of(
    config: ml_collections.ConfigDict,
    policies: Mapping[str, str],
    prompts: Sequence[sources.Prompt],
    pairs: Mapping[str, Sequence[sources.Comparison]],
) -> dict[str, Any]:
    """SHA-256 of everything that is evaluated, in the form of results.json.

    Args:
      config: Of the evaluation.
      policies: Paths by name.
      prompts: What they are asked.
      pairs: Held-out pairs by score model.

    Returns:
      'policies' and 'score_models', of their directories' files by name; 'prompts';
      'pairs', by score model.
    """
    models = {name: one.init for name, one in inputs.scorers(config).items()}
    known: dict[pathlib.Path, str] = {}  # a model may have several roles

    def of_model(name: str, path: str) -> str:
        directory = inputs.model_directory(name, path)
        if directory not in known:
            known[directory] = of_files(directory)
        return known[directory]

    return {
        'policies': {
            name: of_model(f'models.{name}', path) for name, path in policies.items()
        },
        'score_models': {
            name: of_model(f'{name}.init', path) for name, path in models.items()
        },
        'prompts': of_records(prompts),
        'pairs': {name: of_records(some) for name, some in pairs.items()},
    }


def of_files(directory: pathlib.Path) -> str:
    """SHA-256 of a directory's own files, their names included."""
    whole = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        with path.open('rb') as file:
            own = hashlib.file_digest(file, 'sha256').hexdigest()
        whole.update(f'{path.name}\0{own}\n'.encode())
    return whole.hexdigest()


def of_records(records: Sequence[sources.Prompt | sources.Comparison]) -> str:
    """SHA-256 of what records say, wherever they were read."""
    whole = hashlib.sha256()
    for record in records:
        told = dataclasses.asdict(record) | {'where': ''}
        whole.update(f'{json.dumps(told)}\n'.encode())
    return whole.hexdigest()
