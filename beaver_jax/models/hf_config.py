"""What config.json of a model directory says: decoders, score models, classifiers."""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any, TypeVar

from beaver_jax.models import config as config_lib
from beaver_jax.models import families
from beaver_jax.models import tensors

CheckpointError = tensors.CheckpointError
Config = TypeVar('Config')

CLASSIFIER = 'ForSequenceClassification'


def read(directory: str | pathlib.Path) -> dict[str, Any]:
    """Reads config.json of a model directory.

    Raises:
      CheckpointError: No directory, no config.json, no JSON, or an unknown family.
    """
    path = pathlib.Path(directory) / 'config.json'
    if not path.parent.is_dir():
        raise CheckpointError(f'{directory}: no such model directory.')
    if not path.is_file():
        raise CheckpointError(f'{directory}: no config.json; not a model directory.')
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f'{path}: not JSON: {error}') from error
    family = config.get('model_type') if isinstance(config, dict) else None
    if family not in families.FAMILIES:
        raise CheckpointError(
            f'{path}: model_type={family!r} is not known; '
            f'known: {", ".join(sorted(families.FAMILIES))}.'
        )
    return config


def is_score_model(hf: Mapping[str, Any]) -> bool:
    """Whether config.json is that of a score model: safe-rlhf's, or a classifier."""
    names = hf.get('architectures') or ()
    return is_classifier(hf) or any('Score' in name for name in names)


def is_classifier(hf: Mapping[str, Any]) -> bool:
    """Whether config.json is that of an AutoModelForSequenceClassification."""
    return any(name.endswith(CLASSIFIER) for name in hf.get('architectures') or ())


def decoder(hf: Mapping[str, Any]) -> config_lib.TransformerConfig:
    """The decoder of config.json; for errors see `read_as`."""
    fields = families.FAMILIES[hf['model_type']].from_hf(hf)
    return config_lib.TransformerConfig(**fields)


def score(hf: Mapping[str, Any]) -> config_lib.ScoreConfig:
    """The score model of config.json; safe-rlhf's older layout says `bias`.

    For errors see `read_as`.
    """
    if is_classifier(hf):
        labels = len(hf.get('id2label') or (0, 1))  # two where nothing is said
        return config_lib.ScoreConfig(
            backbone=decoder(hf), score_dim=labels, score_bias=False
        )
    return config_lib.ScoreConfig(
        backbone=decoder(hf),
        score_type=hf.get('score_type', 'reward'),
        score_dim=hf.get('score_dim', 1),
        score_bias=bool(hf.get('score_bias', hf.get('bias', False))),
        normalize=bool(hf.get('do_normalize', False)),
        normalizer_type=hf.get('normalizer_type'),
        momentum=hf.get('momentum'),
    )


def read_as(
    parse: Callable[[Mapping[str, Any]], Config], directory: str | pathlib.Path
) -> Config:
    """Reads the config of a decoder or a score model.

    Args:
      parse: `decoder` or `score`.
      directory: Of a model; errors name it.

    Raises:
      CheckpointError: See `read`; a field that is missing, or whose value is not known.
    """
    path, said = pathlib.Path(directory) / 'config.json', read(directory)
    try:
        return parse(said)
    except KeyError as error:
        raise CheckpointError(f'{path}: the field {error} is missing.') from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'{path}: {error}') from error
