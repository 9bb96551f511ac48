"""From a policy's ids to those of score models with tokenizers of their own.

Between rollout and scoring, on the host: samples become text, and text the ids of the
score model, in its own template and padded to a length of its own.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import logging

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.data import reencode
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.stages import inputs

log = logging.getLogger(__name__)
# (row of each prompt among the records [B], samples of B × copies rows) to (sequences
# by scorer, share of them that were too long by scorer).
Views = dict[str, types.Sequences]
Bridge = Callable[[jax.Array, types.Samples], tuple[Views, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Scorers ('reward', 'costs.<name>') that read the same ids of their own."""

    names: tuple[str, ...]
    tokenizer: inputs.Tokenizer
    length: int


def readers(
    config: ml_collections.ConfigDict, tokenizer: inputs.Tokenizer
) -> tuple[Reader, ...]:
    """The score models of a config whose tokenizer is not the policy's.

    Raises:
      InputError: A model or tokenizer is missing, or config.<scorer>.max_length does
        not fit the model or has no room for its template.
    """
    found: list[Reader] = []
    for name, section in inputs.scorers(config).items():
        theirs = inputs.load_tokenizer(f'{name}.init', section.init)
        directory = inputs.model_directory(f'{name}.init', section.init)
        decoder = hf.backbone_config(directory)
        inputs.check_tokenizer(theirs, decoder, f'config.{name}')
        if tokenizer_lib.gives_same_ids(tokenizer, theirs):
            continue
        length = _length(config, section, name, theirs)
        for i, reader in enumerate(found):
            same = tokenizer_lib.gives_same_ids(reader.tokenizer, theirs)
            if same and reader.length == length:
                found[i] = dataclasses.replace(reader, names=(*reader.names, name))
                break
        else:
            found.append(Reader((name,), theirs, length))
    return tuple(found)


def make(
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    prompts: Sequence[sources.Prompt],
    readers: Sequence[Reader],
    *,
    max_prompt_length: int,
) -> Bridge:
    """The function that gives samples to score models in their own ids.

    Each process encodes its own rows, once for each reader.

    Args:
      mesh: Over which the sequences are spread.
      tokenizer: The policy's.
      prompts: The records that the prompts' rows count.
      readers: Of `readers`.
      max_prompt_length: To which the policy's prompts were shortened.
    """

    def views(row, samples):
        if not readers:
            return {}, {}
        texts, ended = _texts(mesh, tokenizer, prompts, max_prompt_length, row, samples)
        found: Views = {}
        cut: dict[str, jax.Array] = {}
        for reader in readers:
            sequences, too_long = reencode.reencode(
                texts, ended, reader.tokenizer, length=reader.length
            )
            placed, too_long = sharding.put_batch(mesh, (sequences, too_long))
            share = jnp.mean(too_long.astype(jnp.float32))
            found |= dict.fromkeys(reader.names, placed)
            cut |= dict.fromkeys(reader.names, share)
        return found, cut

    return views


def announce(readers: Sequence[Reader], policy: str) -> None:
    """Says which score models read a policy's samples in other ids."""
    for reader in readers:
        log.info(
            '%s: another tokenizer than that of %s: samples are encoded anew, in at '
            'most %d tokens',
            ', '.join(reader.names),
            policy,
            reader.length,
        )


def _length(
    config: ml_collections.ConfigDict,
    section: ml_collections.ConfigDict,
    name: str,
    tokenizer: inputs.Tokenizer,
) -> int:
    """The static length of a scorer's sequences."""
    directory = inputs.model_directory(f'{name}.init', section.init)
    decoder = hf.backbone_config(directory)
    twice = 2 * (config.max_prompt_length + config.max_response_length)
    length = section.max_length or min(twice, decoder.max_positions)
    inputs.check_length(decoder, length, f'{name}.max_length')
    try:
        tokenizer_lib.encode_prompt(tokenizer, ('',), max_length=length)
    except ValueError as error:
        raise inputs.InputError(f'config.{name}.{error}') from error
    return length


def _texts(
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    prompts: Sequence[sources.Prompt],
    max_prompt_length: int,
    row: jax.Array,
    samples: types.Samples,
) -> tuple[list[tuple[str, ...]], list[bool]]:
    """This process's samples as conversations, and whether each ended."""
    tokens, answered, truncated, rows = sharding.to_host(
        (samples.tokens, samples.response_mask, samples.truncated, row)
    )
    mine = sharding.process_rows(mesh, len(tokens))
    rows = np.repeat(rows, len(tokens) // len(rows))[mine]
    answers = tokens[mine, -answered.shape[1] :]
    kept: Mapping[int, tuple[str, ...]] = {
        int(i): tokenizer_lib.shorten(
            tokenizer, prompts[i].prompt, max_length=max_prompt_length
        )
        for i in np.unique(rows)
    }
    texts = [
        (*kept[int(i)], tokenizer_lib.decode(tokenizer, answer[real].tolist()))
        for i, answer, real in zip(rows, answers, answered[mine], strict=True)
    ]
    return texts, (~truncated[mine]).tolist()
