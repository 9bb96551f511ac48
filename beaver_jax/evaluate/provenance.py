"""What an evaluation is of, as digests: by them it is known whether it is the same."""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any

import ml_collections

from beaver_jax.data import sources
from beaver_jax.models import fingerprint
from beaver_jax.stages import inputs

Digests = dict[str, str]  # by 'policies.NAME', 'prompts' and so on
MEASURES = '1'  # what is measured, and how: raise it where results change
# What beside weights decides what a model says.
_BESIDE = (
    *('config.json', '*token*.json', 'vocab.*', 'merges.txt', '*.model'),
    *('chat_template.json', '*.jinja'),
)


def of(
    config: ml_collections.ConfigDict,
    policies: Mapping[str, str],
    prompts: Sequence[sources.Prompt],
    pairs: Mapping[str, Sequence[sources.Comparison]],
) -> Digests:
    """Digests of everything that is evaluated.

    Args:
      config: Of the evaluation.
      policies: Paths by name.
      prompts: What they are asked.
      pairs: Held-out pairs by score model.

    Returns:
      Of 'policies.NAME', of the score models 'reward' and 'costs.NAME', of 'prompts',
      and of 'pairs.reward' and 'pairs.costs.NAME'; and `MEASURES`.

    Raises:
      ValueError: A model that is missing or broken.
    """
    directories = {
        f'policies.{name}': inputs.model_directory(f'models.{name}', path)
        for name, path in policies.items()
    } | {
        name: inputs.model_directory(f'{name}.init', section.init)
        for name, section in inputs.scorers(config).items()
    }
    known = {path: of_model(path) for path in set(directories.values())}
    found = {name: known[path] for name, path in directories.items()}
    found['measures'] = MEASURES
    found['prompts'] = _sha256((one.prompt, one.category) for one in prompts)
    for name, some in pairs.items():
        found[f'pairs.{name}'] = _sha256(
            (one.prompt, one.responses, one.better, one.safer, one.safe) for one in some
        )
    return found


def of_model(directory: pathlib.Path) -> str:
    """A digest of a model: its weights' fingerprint, its config and its tokenizer.

    Raises:
      CheckpointError: No weights, or files that are missing or broken.
    """
    beside = sorted({path for pattern in _BESIDE for path in directory.glob(pattern)})
    files = (
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in beside
    )
    return _sha256([fingerprint.of(directory), *files])


def _sha256(values: Iterable[Any]) -> str:
    """Of values that JSON can hold, in their order."""
    whole = hashlib.sha256()
    for value in values:
        whole.update(f'{json.dumps(value)}\n'.encode())
    return whole.hexdigest()
