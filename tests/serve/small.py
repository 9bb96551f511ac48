"""Directories of very small models, to serve."""

import pathlib
from typing import Any

from beaver_jax.data import bpe
from beaver_jax.models import hf
from beaver_jax.models import score
from tests import tiny
from tests import vocabularies

VOCABULARY = 120


def language_model(directory: pathlib.Path, seed: int = 0, **changes: Any) -> str:
    """A language model that says nonsense in the words of its tokenizer."""
    bpe.train(vocabularies.TEXTS, directory, vocab_size=VOCABULARY)
    fields: dict[str, Any] = {'vocab_size': VOCABULARY, 'max_positions': 256}
    model, params = tiny.causal_lm(seed, **(fields | changes))
    hf.save_causal_lm(directory, model.config, params)
    return str(directory)


def score_model(
    directory: pathlib.Path, kind: str, seed: int = 1, max_positions: int = 256
) -> str:
    """A reward or cost model over the same tokenizer."""
    bpe.train(vocabularies.TEXTS, directory, vocab_size=VOCABULARY)
    backbone = {'vocab_size': VOCABULARY, 'max_positions': max_positions}
    model, params = tiny.score_model(seed, backbone=backbone, score_type=kind)
    normalizer = score.init_normalizer(1)
    hf.save_score_model(directory, model.config, params, normalizer)
    return str(directory)
