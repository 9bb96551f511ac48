"""The records of a stage: their sources, what is held out, what is lost."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import logging
import os
from typing import Any

import ml_collections

from beaver_jax import config as config_lib
from beaver_jax import distributed
from beaver_jax.data import card
from beaver_jax.data import rows as rows_lib
from beaver_jax.data import sources
from beaver_jax.data import specs as specs_lib
from beaver_jax.data import store
from beaver_jax.data import world
from beaver_jax.stages import inputs

log = logging.getLogger(__name__)
# Of these there should be few.
SHORTENED = ('cut_response', 'shortened_prompt')
LOST = (*SHORTENED, 'no_response_left', 'identical_tokens')


def prepare_world(config: ml_collections.ConfigDict) -> None:
    """Writes the built-in world of this run, where the config asks for it."""
    if config.data.world:
        distributed.by_first(
            world.write, os.path.join(config.run, 'world'), config.seed
        )


def specs(config: ml_collections.ConfigDict, name: str) -> list[specs_lib.Spec]:
    """The sources that config.data.<name> lists, each of which can be read.

    Raises:
      inputs.InputError: There are none, or one cannot be understood or read.
    """
    data = config.data
    own = _refuse('adapters', specs_lib.load, data.adapters)
    columns = _refuse('columns', specs_lib.parse_columns, data.columns)
    found = _refuse(name, specs_lib.parse, data[name], own, columns)
    if not found:
        raise inputs.InputError(
            f'config.data.{name} is empty; name one or more jsonl files or other '
            f'sources (docs/data.md), --config.data.{name}=a.jsonl,b.jsonl'
        )
    for spec in found:
        _refuse(name, spec.check)
    return found


def _refuse(name: str, call: Callable[..., Any], *args: Any) -> Any:
    """Calls a function whose complaints are about config.data.<name>."""
    try:
        return call(*args)
    except rows_lib.DataError as error:
        raise inputs.InputError(f'config.data.{name}: {error}') from error


def check_specs(config: ml_collections.ConfigDict, names: Sequence[str]) -> None:
    """Refuses uses of rows, such as 'sft', without sources that can be read."""
    for name in names:
        specs(config, name)
    check_tests(config, names)


def check_tests(config: ml_collections.ConfigDict, names: Sequence[str]) -> None:
    """Refuses held-out rows of uses, where some are named, that cannot be read."""
    for name in names:
        if config.data[f'{name}_test']:
            specs(config, f'{name}_test')


def test_prompts(
    config: ml_collections.ConfigDict, counts: sources.Counts | None = None
) -> store.Stored[sources.Prompt]:
    """Prompts of config.data.prompts_test, or those held out of config.data.prompts.

    Args:
      config: Of the stage.
      counts: Gets what became of the rows.

    Raises:
      inputs.InputError: There are none.
    """
    data = config.data
    read = functools.partial(
        sources.prompts, on_bad_row=data.on_bad_row, seed=config.seed, counts=counts
    )
    if data.prompts_test or not data.prompts:
        return read(specs(config, 'prompts_test'))
    _, test = _held_out(read(specs(config, 'prompts')), config, 'prompts')
    if not test:
        raise inputs.InputError(
            'config.data.prompts_test is empty and config.data.test_share=0; name '
            'prompts to evaluate on, or hold out a share.'
        )
    if counts is not None:
        counts['held_out'] = len(test)
    return test


@dataclasses.dataclass(frozen=True)
class Found:
    """Records of one use, and what is known of them."""

    train: store.Stored[Any]
    test: store.Stored[Any]
    counts: sources.Counts = dataclasses.field(default_factory=sources.Counts)
    lengths: card.Lengths = dataclasses.field(default_factory=card.Lengths)

    def noted(self) -> dict[str, Any]:
        """What batches of the records to train on add to: their counts and lengths."""
        return {'counts': self.counts, 'lengths': self.lengths}

    def card(self) -> dict[str, Any]:
        """See `card.describe`."""
        return card.describe(self.train, self.test, **self.noted())


def train_and_test(
    read: Callable[..., store.Stored[Any]],
    config: ml_collections.ConfigDict,
    name: str,
) -> Found:
    """Rows of config.data.<name>, and of <name>_test or a share held out by prompt.

    Args:
      read: (specs, seed=…, counts=…) to records.
      config: Of the stage.
      name: The use of the rows, such as 'sft'.
    """
    read = functools.partial(read, seed=config.seed)
    counts = sources.Counts()
    records = read(specs(config, name), counts=counts)
    if config.data[f'{name}_test']:
        return Found(records, read(specs(config, f'{name}_test')), counts)
    train, test = _held_out(records, config, name)
    counts['held_out'] = len(test)
    return Found(train, test, counts)


def held_out(
    read: Callable[..., store.Stored[Any]],
    config: ml_collections.ConfigDict,
    name: str,
) -> Sequence[Any]:
    """What `train_and_test` holds out, without the rest; () where nothing is named.

    Args: see there.
    """
    read = functools.partial(read, seed=config.seed)
    if config.data[f'{name}_test']:
        return read(specs(config, f'{name}_test'))
    if not config.data[name]:
        return ()
    return _held_out(read(specs(config, name)), config, name)[1]


def once(make: Callable[..., Any], test: Sequence[Any], stage: str) -> Any | None:
    """Batches of held-out rows, once; None where there are none to measure on.

    Args:
      make: (records, once=True) to batches.
      test: Held-out records.
      stage: Its name, for the log.
    """
    if not test:
        return None
    try:
        return make(test, once=True)
    except rows_lib.DataError as error:
        log.warning('%s: nothing is measured on held-out rows: %s', stage, error)
        return None


def _held_out(
    records: store.Stored[Any], config: ml_collections.ConfigDict, name: str
) -> tuple[store.Stored[Any], store.Stored[Any]]:
    try:
        return sources.held_out(records, config.data.test_share, config.seed)
    except sources.DataError as error:
        raise inputs.InputError(
            f'config.data.{name}: config.data.{error} Or name a file to test on, '
            f'--config.data.{name}_test.'
        ) from error


def log_counts(
    config: ml_collections.ConfigDict,
    counts: sources.Counts,
    batch: str,
    length: str,
    *,
    bucketed: bool = False,
) -> dict[str, int]:
    """Says what became of the rows, and warns of what looks like a mistake.

    Args:
      config: Of the stage.
      counts: Under the keys of rows_lib.COUNTED.
      batch: The key of the rows of a batch, such as 'batch_size'.
      length: The key of the length that rows are padded to, such as 'max_length'.
      bucketed: They are padded to shorter ones too; a batch holds no row twice.

    Returns:
      The counts that are not 0.
    """
    found = tell(config.stage, counts)
    values, rows = config_lib.flatten(config), counts['examples']
    sequences = counts['packed'] or rows
    if sequences < values[batch] and not bucketed:
        log.warning(
            '%s: config.%s=%d is more than the %d %s to train on: a batch holds some '
            'of them more than once.',
            *(config.stage, batch, values[batch], sequences),
            'packed sequences' if counts['packed'] else 'rows',
        )
    if counts['packed']:
        log.info(
            '%s: packed: %.1f rows in a sequence of config.%s=%d, %.1f%% of it tokens',
            *(config.stage, rows / sequences, length, values[length]),
            100 * counts['tokens'] / (sequences * values[length]),
        )
    elif not bucketed and values[length] >= 2 * counts['longest']:
        log.info(
            '%s: every row is padded to config.%s=%d; %d are enough, and take less '
            'time.',
            *(config.stage, length, values[length], counts['longest']),
        )
    for key in LOST:
        # Those that are left out are not among the rows to train on.
        whole = rows + counts[key] * (key not in SHORTENED)
        if 2 * counts[key] > whole:
            log.warning(
                '%s: %d %s, of %d rows: is the limit too low?',
                *(config.stage, counts[key], rows_lib.COUNTED[key], whole),
            )
    return found


def tell(stage: str, counts: sources.Counts) -> dict[str, int]:
    """Says what became of the rows; returns the counts that are not 0."""
    order = list(rows_lib.COUNTED).index
    keys = sorted((key for key in counts if counts[key]), key=order)
    told = ', '.join(f'{counts[key]:,} {rows_lib.COUNTED[key]}' for key in keys)
    log.info('%s: data: %s', stage, told)
    return {key: counts[key] for key in keys}
