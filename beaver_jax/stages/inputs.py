"""What a stage starts from: model directories, tokenizers, rows."""

from collections.abc import Callable
import contextlib
import logging
import pathlib
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh
import ml_collections
import transformers

from beaver_jax import config as config_lib
from beaver_jax import layout
from beaver_jax import sharding
from beaver_jax.data import rows as rows_lib
from beaver_jax.data import sources
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import config as model_lib
from beaver_jax.models import hf
from beaver_jax.models import hf_config
from beaver_jax.models import quantize
from beaver_jax.models import transformer

log = logging.getLogger(__name__)
Tokenizer = transformers.PreTrainedTokenizerBase
Settings = TypeVar('Settings')
LATE = ('warn', 'error', 'ignore')  # of what is compiled after the first step
DTYPES = ('auto', 'float32', 'bfloat16')
MODES = ('min', 'max')  # of a metric by which checkpoints are kept
# Embeddings and logits are padded to a multiple of so many tokens, whatever the mesh
# is: so a tensor axis divides them, and a checkpoint fits any mesh.
VOCAB_MULTIPLE = 128
MODEL = layout.MODEL
NO_MODEL = (
    'holds no model (config.json and model.safetensors); name a finished stage or a '
    'Hugging Face model directory.'
)


class InputError(ValueError):
    """An input of a stage that is missing or does not fit."""


def find_model(path: str) -> pathlib.Path | None:
    """The Hugging Face directory that `path` names: a model's, or a stage's."""
    for candidate in (pathlib.Path(path) / MODEL, pathlib.Path(path)):
        if (candidate / 'config.json').is_file() and (
            candidate.name == MODEL or _has_weights(candidate)
        ):
            return candidate
    return None


def model_directory(name: str, path: str) -> pathlib.Path:
    """The Hugging Face directory that config.<name> names.

    Raises:
      InputError: There is none.
    """
    if not path:
        raise InputError(
            f'config.{name} is empty; name a stage directory such as runs/tiny/sft or '
            'a Hugging Face model directory.'
        )
    directory = find_model(path)
    if directory is not None:
        return directory
    raise InputError(f'config.{name}={path!r} {no_model(path)}')


def no_model(path: str) -> str:
    """Why `path` names no model, and what may be meant."""
    directory = pathlib.Path(path)
    if (directory / 'adapter_config.json').is_file():
        return (
            'is an adapter, not a model; name the stage that has left it, whose merged '
            'model is beside it.'
        )
    inside: dict[str, list[str]] = {'Language': [], 'Score': []}
    for place in map(str, sorted(directory.glob('*'))):
        with contextlib.suppress(OSError, hf.CheckpointError):
            if (found := find_model(place)) is not None:
                scores = hf_config.is_score_model(hf_config.read(found))
                inside['Score' if scores else 'Language'].append(place)
    return NO_MODEL + ''.join(
        f' {kind} models in it: {", ".join(places)}.'
        for kind, places in inside.items()
        if places
    )


def check_kind(named: str, directory: pathlib.Path, *, scores: bool = False) -> None:
    """Refuses a score model where a language model is meant, or the reverse.

    Args:
      named: What names the model, for messages.
      directory: Of the model.
      scores: A score model is meant.
    """
    if hf_config.is_score_model(hf_config.read(directory)) != scores:
        kinds = ('language model', 'score model')
        raise InputError(f'{named} is a {kinds[not scores]}; name a {kinds[scores]}.')


def _has_weights(directory: pathlib.Path) -> bool:
    return any(directory.glob('*.safetensors')) or any(directory.glob('*.bin'))


def settings(
    dataclass: type[Settings],
    name: str,
    section: ml_collections.ConfigDict,
    **more: Any,
) -> Settings:
    """A dataclass of a config section, whose complaints name the section.

    Args:
      dataclass: Its errors begin with FIELD=VALUE.
      name: Of the section, such as 'optimizer'.
      section: Its fields.
      **more: Fields from elsewhere.

    Raises:
      InputError: A value out of range.
    """
    try:
        return dataclass(**section.to_dict(), **more)
    except ValueError as error:
        raise InputError(f'config.{name}.{error}') from error


def check_counts(config: ml_collections.ConfigDict, *names: str) -> None:
    """Refuses whole numbers below 1."""
    values = config_lib.flatten(config)
    for name in names:
        if values[name] < 1:
            raise InputError(f'config.{name}={values[name]}; must be at least 1.')


def check_loop(config: ml_collections.ConfigDict) -> None:
    """Refuses settings that every stage has, where they are out of range."""
    check_counts(
        config, 'log.every', 'checkpoint.every', 'checkpoint.keep', 'max_bad_steps'
    )
    if config.late_compilation not in LATE:
        raise InputError(
            f'config.late_compilation={config.late_compilation!r}; known: '
            f'{", ".join(LATE)}.'
        )
    if config.checkpoint.mode not in MODES:
        raise InputError(
            f'config.checkpoint.mode={config.checkpoint.mode!r}; known: '
            f'{", ".join(MODES)}.'
        )
    for name, value in (
        ('log.heartbeat', config.log.heartbeat),
        ('checkpoint.minutes', config.checkpoint.minutes),
        ('checkpoint.best', config.checkpoint.best),
    ):
        if value < 0:
            raise InputError(f'config.{name}={value}; must not be negative.')
    if config.dtype not in DTYPES:
        raise InputError(f'config.dtype={config.dtype!r}; known: {", ".join(DTYPES)}.')
    if config.seed < 0:
        raise InputError(f'config.seed={config.seed}; must not be negative.')
    data = config.data
    rows_lib.check_choice('config.data.on_bad_row', data.on_bad_row, rows_lib.OnBadRow)
    rows_lib.check_choice(
        'config.data.contradictions', data.contradictions, sources.Contradictions
    )
    if data.workers < 0:
        raise InputError(f'config.data.workers={data.workers}; must not be negative.')
    if not 0 <= data.test_share < 1:
        raise InputError(
            f'config.data.test_share={data.test_share}; must be from 0 to below 1.'
        )


def placer(mesh: Mesh) -> Callable[[Any], Any]:
    """Shardings for abstract parameters by the decoder's rules."""

    def place(abstract):
        return sharding.param_shardings(mesh, transformer.RULES, abstract)

    return place


def compute(section: ml_collections.ConfigDict, name: str) -> dict[str, Any]:
    """Fields of the decoder that the section config.<name> sets."""
    known = {'dtype': DTYPES, 'remat': model_lib.REMAT_POLICIES}
    for field, values in known.items():
        if section[field] not in values:
            raise InputError(
                f'config.{name}.{field}={section[field]!r}; known: {", ".join(values)}.'
            )
    chunk = section.logits_chunk
    if chunk is not None and chunk < 0:
        raise InputError(
            f'config.{name}.logits_chunk={chunk}; must not be negative; 0 is all '
            'tokens at once, none a number that suits the vocabulary.'
        )
    return {
        'dtype': resolved(section.dtype),
        'remat': section.remat,
        'logits_chunk': chunk,
        'vocab_multiple': VOCAB_MULTIPLE,
    }


def param_dtype(section: ml_collections.ConfigDict, *, frozen: bool) -> str:
    """The type that parameters are kept in: what learns, in float32."""
    return resolved(section.dtype) if frozen else 'float32'


def settle(config: ml_collections.ConfigDict, auto: str = '') -> None:
    """Replaces every dtype 'auto', by default by what it is on this machine.

    So that a run stays what it was begun as, wherever it goes on or is exported.

    Args:
      config: Of a stage; changed.
      auto: The type to take; '' for that of this machine.
    """
    with config.unlocked():
        for key, value in config_lib.flatten(config).items():
            if key.rpartition('.')[2] == 'dtype' and value == 'auto':
                config.update_from_flattened_dict({key: auto or resolved(value)})


def resolved(dtype: str) -> str:
    """A type of DTYPES as it is on this machine: 'auto' is bfloat16 on accelerators."""
    if dtype != 'auto':
        return dtype
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def check_quantize(
    section: ml_collections.ConfigDict, name: str, *, learns: bool = False
) -> None:
    """Refuses an unknown kind, or one of parameters that learn."""
    kind = section.quantize
    if kind not in quantize.KINDS:
        raise InputError(
            f'config.{name}.quantize={kind!r}; known: {", ".join(quantize.KINDS)}.'
        )
    if kind != 'none' and learns:
        raise InputError(
            f'config.{name}.quantize={kind!r} is for frozen parameters; let adapters '
            f'learn over them, --config.lora.rank=16, or leave it at none.'
        )


def new_tokens(
    section: ml_collections.ConfigDict,
    name: str,
    tokenizer: Tokenizer,
    *,
    tell: bool = False,
) -> dict[str, int]:
    """The vocab_size that config.<name>.resize_vocabulary gives a model, if any."""
    directory = model_directory(f'{name}.init', section.init)
    held = hf.backbone_config(directory).vocab_size
    if not section.resize_vocabulary or len(tokenizer) <= held:
        return {}
    if tell:
        log.info(
            'config.%s: %d tokens without an embedding get the mean of the %d that '
            'there are',
            *(name, len(tokenizer) - held, held),
        )
    return {'vocab_size': len(tokenizer)}


def load_tokenizer(name: str, path: str, format: str = '') -> Tokenizer:
    """The tokenizer beside the model that `path` names; see `tokenizer.load`."""
    return tokenizer_lib.load(model_directory(name, path), format)


def check_template(config: ml_collections.ConfigDict, path: str) -> None:
    """Refuses a config.data.template that a model's directory does not have.

    Args:
      config: Of a stage.
      path: What it starts from; not there yet where another stage makes it.

    Raises:
      InputError: It is unknown, or the tokenizer has no chat template.
    """
    wanted = config.data.template
    if wanted and wanted not in template.FORMATS:
        raise InputError(
            f'config.data.template={wanted!r}; known: {", ".join(template.FORMATS)}, '
            "or empty for the model's own."
        )
    directory = find_model(path) or pathlib.Path(path)
    if wanted == 'chat' and directory.is_dir():
        try:
            tokenizer_lib.load(directory, wanted)
        except ValueError as error:
            raise InputError(f'config.data.template={wanted!r}: {error}') from error


def check_tokenizer(
    tokenizer: Tokenizer, config: model_lib.TransformerConfig, where: str
) -> None:
    """Refuses a tokenizer with more tokens than the model has embeddings."""
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f'{where}: the tokenizer has {len(tokenizer)} tokens, the model '
            f'{config.vocab_size} embeddings; use the tokenizer that belongs to it, '
            'or give the new tokens embeddings in SFT (or reward, cost) with '
            '--config.model.resize_vocabulary=True.'
        )


def check_length(config: model_lib.TransformerConfig, length: int, name: str) -> None:
    """Refuses sequences that are longer than a model was made for."""
    if length > config.max_positions:
        raise InputError(
            f'config.{name}={length} is more than the {config.max_positions} '
            'positions of the model; lower it.'
        )


def scorers(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The sections of the score models: 'reward' and 'costs.<name>'."""
    costs = {f'costs.{name}': cost for name, cost in config.costs.items()}
    return {'reward': config.reward, **costs}


def sections(
    config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.ConfigDict]:
    """The sections of all models of reinforcement learning."""
    names = ('actor', 'reference', 'critic')
    return {name: config[name] for name in names} | scorers(config)


def check_max_lengths(config: ml_collections.ConfigDict) -> None:
    """Refuses negative lengths of what score models read."""
    for name, section in scorers(config).items():
        if section.max_length < 0:
            raise InputError(
                f'config.{name}.max_length={section.max_length}; must not be negative; '
                '0 is twice the length of prompt and response.'
            )


def count_steps(config: ml_collections.ConfigDict, rows: int) -> int:
    """Steps of a supervised stage: config.steps, or config.epochs over the rows."""
    if config.steps < 0 or (not config.steps and not config.epochs > 0):
        raise InputError(
            f'config.steps={config.steps} and config.epochs={config.epochs}; set '
            'steps above 0, or steps=0 and epochs above 0.'
        )
    return config.steps or max(1, round(config.epochs * rows / config.batch_size))


def check_parts(name: str, rows: int, parts: int, mesh: Mesh) -> None:
    """Refuses a number of parts that does not divide the rows of every device."""
    devices = mesh.shape['data'] * mesh.shape['fsdp']
    if parts < 1 or rows % (parts * devices):
        raise InputError(
            f'config.{name}={parts} does not cut {rows} rows on {devices} devices '
            f'into equal parts; use a divisor of {rows // devices}.'
        )


def process_shard(mesh: Mesh) -> tuple[int, int]:
    """(this process's part of each batch, number of parts); see `batch_part`."""
    return sharding.batch_part(mesh, jax.process_index())
