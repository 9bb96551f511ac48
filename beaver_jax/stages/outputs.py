"""What a stage leaves behind: Hugging Face directories."""

import logging
import pathlib
import shutil
from typing import Any

import jax

from beaver_jax import sharding
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import peft
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.stages import inputs

log = logging.getLogger(__name__)


def export_causal_lm(
    model: transformer.CausalLM,
    params: hf.Params,
    tokenizer: inputs.Tokenizer,
    directory: pathlib.Path,
) -> None:
    """Writes a language model and its tokenizer; complete, or not at all."""
    params = sharding.to_host(params)
    with _Directory(directory) as temporary:
        if temporary is not None:
            ids = _special_ids(tokenizer)
            hf.save_causal_lm(temporary, model.config, params, extra=ids)
            tokenizer_lib.save(tokenizer, temporary)


def export_adapter(
    config: config_lib.TransformerConfig,
    lora: lora_lib.LoraConfig,
    adapters: hf.Params,
    init: str,
    model: pathlib.Path,
) -> None:
    """Writes a policy's adapters for `peft`, in `adapter` beside the merged `model`.

    Nothing without adapters. A family whose names peft cannot express has the merged
    model alone, and the log says so.
    """
    if not lora.rank:
        return
    try:
        tensors = peft.tensors_of(config, sharding.to_host(adapters))
    except hf.CheckpointError as error:
        log.warning('%s: no adapter is written: %s', model.parent, error)
        return
    base = inputs.find_model(init)
    assert base is not None  # it was loaded from there
    with _Directory(model.with_name('adapter')) as temporary:
        if temporary is not None:
            peft.save(temporary, config, lora, tensors, base=str(base.resolve()))


def export_score_model(
    model: score.ScoreModel,
    params: hf.Params,
    normalizer: score.Normalizer,
    tokenizer: inputs.Tokenizer,
    directory: pathlib.Path,
) -> None:
    """Writes a score model in safe-rlhf's layout; complete, or not at all."""
    params, normalizer = sharding.to_host((params, normalizer))
    with _Directory(directory) as temporary:
        if temporary is not None:
            ids = _special_ids(tokenizer)
            hf.save_score_model(temporary, model.config, params, normalizer, extra=ids)
            tokenizer_lib.save(tokenizer, temporary)


def _special_ids(tokenizer: inputs.Tokenizer) -> dict[str, Any]:
    names = ('bos_token_id', 'eos_token_id', 'pad_token_id')
    return {name: getattr(tokenizer, name) for name in names}


class _Directory:
    """A sibling that takes the directory's name once all is written; process 0 only."""

    def __init__(self, directory: pathlib.Path):
        self._target = directory
        self._temporary = directory.with_name(directory.name + '.partial')

    def __enter__(self) -> pathlib.Path | None:
        if jax.process_index():
            return None
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        return self._temporary

    def __exit__(self, kind, *unused) -> None:
        if jax.process_index():
            return
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        if self._target.exists():
            shutil.rmtree(self._target)
        self._temporary.rename(self._target)
