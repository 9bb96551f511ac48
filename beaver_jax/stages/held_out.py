"""Pairs that score models are measured on."""

from collections.abc import Sequence
import functools
import logging
import pathlib

import ml_collections

from beaver_jax.data import sources
from beaver_jax.stages import directories
from beaver_jax.stages import inputs
from beaver_jax.stages import records

log = logging.getLogger(__name__)


def pairs(
    config: ml_collections.ConfigDict,
) -> dict[str, Sequence[sources.Comparison]]:
    """Held-out pairs by score model: 'reward', and 'costs.<name>' of the only cost.

    Those of config.data.reward_pairs_test and cost_pairs_test, or the share that the
    model's own training on reward_pairs and cost_pairs has left out; at most
    config.score_pairs, evenly spaced. Where neither is named, or what the model was
    trained on is not known, a model has none.

    Raises:
      InputError: A source that cannot be read.
    """
    if config.score_pairs < 0:
        raise inputs.InputError(
            f'config.score_pairs={config.score_pairs}; must not be negative.'
        )
    named: list[tuple[str, str, sources.Need]] = [('reward', 'reward', 'better')]
    if len(config.costs) == 1:
        named += [(f'costs.{name}', 'cost', 'safer') for name in config.costs]
    found = {}
    for name, use, need in named if config.score_pairs else ():
        read = functools.partial(
            sources.comparisons,
            need=need,
            on_bad_row=config.data.on_bad_row,
            contradictions=config.data.contradictions,
        )
        if _is_held_out(config, name, use):
            whole = records.held_out(read, config, f'{use}_pairs')
            found[name] = _some(whole, config.score_pairs)
    return found


def _is_held_out(config: ml_collections.ConfigDict, name: str, use: str) -> bool:
    """Whether there are pairs that the model was not trained on."""
    data, key = config.data, f'{use}_pairs'
    if data[f'{key}_test']:
        return True
    if not data[key]:
        return False
    path = pathlib.Path(inputs.scorers(config)[name].init)
    stage = path.parent if path.name == inputs.MODEL else path
    held = directories.recorded(stage, str(stage.parent))
    wanted = {
        'stage': use,
        'seed': config.seed,
        'data.test_share': data.test_share,
        f'data.{key}': data[key],
    }
    differing = [key for key, value in wanted.items() if held.get(key) != value]
    if differing:
        log.info(
            'evaluate: %s is not measured on pairs: which of config.data.%s its '
            'training left out is not known (%s); name some by config.data.%s_test',
            *(name, key, ', '.join(differing), key),
        )
    return not differing


def _some(
    whole: Sequence[sources.Comparison], most: int
) -> Sequence[sources.Comparison]:
    count = len(whole)
    if count <= most:
        return whole
    return [whole[i * count // most] for i in range(most)]
