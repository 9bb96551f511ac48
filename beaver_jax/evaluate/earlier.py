"""What an evaluation's directory holds from before, and what that is to a new one."""

from collections.abc import Mapping, Sequence
import json
import logging
import re
from typing import Any, Literal, NamedTuple

import ml_collections

from beaver_jax.evaluate import provenance
from beaver_jax.stages import directories

log = logging.getLogger(__name__)

SAMPLES = 'samples.jsonl'
_PLACES = re.compile(r'models|reward\.init|costs\..+\.init')  # digests say of what


class Earlier(NamedTuple):
    """Finished results, and what a new evaluation is to them.

    Attributes:
      results: What results.json holds; {} where nothing is finished.
      standing: 'none', nothing is finished; 'same', the new one would be this one;
        'covered', it has more policies or costs and the same of all else; 'other'.
    """

    results: Mapping[str, Any] = {}
    standing: Literal['none', 'same', 'covered', 'other'] = 'none'


def find(config: ml_collections.ConfigDict, digests: provenance.Digests) -> Earlier:
    """Looks at what is there; says why something is another evaluation.

    Raises:
      ValueError: The results are damaged.
    """
    file = directories.directory(config) / directories.RESULTS
    if not file.is_file() or config.if_exists == 'overwrite':
        return Earlier()
    try:
        results = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f'{file} is not JSON ({error}); move the directory away and evaluate again.'
        ) from error
    changes = directories.changes(config)
    differing = _differing(results.get('digests'), digests)
    if not changes and not differing and results['digests'].keys() == digests.keys():
        return Earlier(results, 'same')
    if not differing and (not changes or _has_more(changes)):
        return Earlier(results, 'covered')
    log.info('evaluate: %s: %s', file.parent, differing or 'another config')
    return Earlier(results, 'other')


def texts(
    config: ml_collections.ConfigDict, policies: Sequence[str]
) -> dict[str, list[str]]:
    """The answers that are there, by policy."""
    file = directories.directory(config) / SAMPLES
    with file.open(encoding='utf-8') as lines:
        rows = [json.loads(line)['answers'] for line in lines]
    return {name: [row[name]['text'] for row in rows] for name in policies}


def _differing(before: provenance.Digests | None, now: provenance.Digests) -> str:
    """Says what of the earlier evaluation is not the same, '' if all is."""
    if before is None or before.get('measures') != now['measures']:
        return 'of another version, so of which models and prompts is not known'
    names = [name for name, digest in before.items() if now.get(name) != digest]
    return f'changed since: {", ".join(names)}' if names else ''


def _has_more(changes: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether a config adds to another one, but for the places of models."""
    return all(
        old is None or _PLACES.fullmatch(key) for key, (old, _) in changes.items()
    )
