"""What a stage leaves behind: Hugging Face directories."""

import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import sharding
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import config as config_lib
from beaver_jax.models import fingerprint
from beaver_jax.models import hf
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import peft
from beaver_jax.models import saving
from beaver_jax.models import score
from beaver_jax.models import score_adapter
from beaver_jax.models import transformer
from beaver_jax.stages import inputs

DTYPES = ('float32', 'bfloat16', 'float16')
CARD = 'README.md'
ADAPTER = 'adapter'  # beside a policy's merged model


@dataclasses.dataclass(frozen=True)
class Form:
    """How a model is written.

    Attributes:
      dtype: Of the parameters; those of a score head stay float32.
      shard_bytes: Size above which the weights are spread over several files.
      card: Text of the model card; without it there is none.
    """

    dtype: str = 'float32'
    shard_bytes: int = saving.SHARD_BYTES
    card: str = ''

    def __post_init__(self):
        """Refuses values out of range."""
        if self.dtype not in DTYPES:
            raise ValueError(f'dtype={self.dtype!r}; known: {", ".join(DTYPES)}.')
        if self.shard_bytes < 1:
            raise ValueError(f'shard_bytes={self.shard_bytes}; must be at least 1.')


WIDE = Form()


def export_causal_lm(
    model: transformer.CausalLM,
    params: hf.Params,
    tokenizer: inputs.Tokenizer,
    directory: pathlib.Path,
    form: Form = WIDE,
) -> None:
    """Writes a language model and its tokenizer; complete, or not at all.

    All processes take part; the first one writes.

    Raises:
      InputError: float16 cannot hold a parameter.
    """
    params = _gathered(params, form.dtype)
    with _Directory(directory, form.card) as temporary:
        if temporary is not None:
            hf.save_causal_lm(
                temporary,
                model.config,
                params,
                extra=_special_ids(tokenizer),
                shard_bytes=form.shard_bytes,
            )
            tokenizer_lib.save(tokenizer, temporary)


def export_adapter(
    config: config_lib.TransformerConfig,
    lora: lora_lib.LoraConfig,
    adapters: hf.Params,
    init: str,
    tokenizer: inputs.Tokenizer,
    directory: pathlib.Path,
    form: Form = WIDE,
) -> None:
    """Writes a policy's adapters for `peft`; complete, or not at all.

    The tokenizer goes along, as the base's may have another template.

    All processes take part; the first one writes.

    Raises:
      InputError: float16 cannot hold an adapter.
    """
    adapters = _gathered(adapters, form.dtype)
    base = inputs.find_model(init)
    assert base is not None  # it was loaded from there
    with _Directory(directory, form.card) as temporary:
        if temporary is not None:
            tensors = peft.tensors_of(config, adapters)
            peft.save(temporary, config, lora, tensors, base=str(base.resolve()))
            tokenizer_lib.save(tokenizer, temporary)


def export_score_adapter(
    config: config_lib.ScoreConfig,
    lora: lora_lib.LoraConfig,
    learnt: hf.Params,
    normalizer: score.Normalizer,
    init: str,
    tokenizer: inputs.Tokenizer,
    directory: pathlib.Path,
    form: Form = WIDE,
) -> None:
    """Writes a score model's adapters and head; complete, or not at all.

    All processes take part; the first one writes.

    Raises:
      InputError: float16 cannot hold an adapter.
    """
    base = inputs.find_model(init)
    assert base is not None  # it was loaded from there
    learnt, normalizer = _gathered(learnt, form.dtype), sharding.to_host(normalizer)
    with _Directory(directory, form.card) as temporary:
        if temporary is not None:
            score_adapter.save(
                temporary,
                config,
                lora,
                learnt,
                normalizer,
                base=str(base.resolve()),
                fingerprint=fingerprint.of(base),
            )
            tokenizer_lib.save(tokenizer, temporary)


def export_score_model(
    model: score.ScoreModel,
    params: hf.Params,
    normalizer: score.Normalizer,
    tokenizer: inputs.Tokenizer,
    directory: pathlib.Path,
    form: Form = WIDE,
) -> None:
    """Writes a score model in safe-rlhf's layout; complete, or not at all.

    All processes take part; the first one writes.

    Raises:
      InputError: float16 cannot hold a parameter.
    """
    params, normalizer = _gathered(params, form.dtype), sharding.to_host(normalizer)
    with _Directory(directory, form.card) as temporary:
        if temporary is not None:
            hf.save_score_model(
                temporary,
                model.config,
                params,
                normalizer,
                extra=_special_ids(tokenizer),
                shard_bytes=form.shard_bytes,
            )
            tokenizer_lib.save(tokenizer, temporary)


def _gathered(params: hf.Params, dtype: str) -> hf.Params:
    """Whole parameters on the first process's host; the others get none of them."""

    def gather(path, leaf):
        # safe-rlhf computes scores in float32.
        wide = path[0].key == 'score_head'
        array = sharding.to_host(leaf if wide else leaf.astype(jnp.dtype(dtype)))
        if dtype == 'float16' and not np.all(np.isfinite(array)):
            raise inputs.InputError(
                f'float16 cannot hold {sharding.path_string(path)}, whose values are '
                'beyond 65504; use bfloat16.'
            )
        return None if jax.process_index() else array

    return jax.tree_util.tree_map_with_path(gather, params)


def _special_ids(tokenizer: inputs.Tokenizer) -> dict[str, Any]:
    names = ('bos_token_id', 'eos_token_id', 'pad_token_id')
    return {name: getattr(tokenizer, name) for name in names}


class _Directory:
    """A sibling that takes the directory's name once all is written; process 0 only."""

    def __init__(self, directory: pathlib.Path, card: str):
        self._target, self._card = directory, card
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
        if self._card:
            (self._temporary / CARD).write_text(self._card, encoding='utf-8')
        if self._target.exists():
            shutil.rmtree(self._target)
        self._temporary.rename(self._target)
