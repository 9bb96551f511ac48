"""The judge of an evaluation: from its config and answers to its results."""

from collections.abc import Collection, Mapping, Sequence
import json
import pathlib
from typing import Any

import ml_collections

from beaver_jax import metrics as metrics_lib
from beaver_jax.data import sources
from beaver_jax.evaluate import judges
from beaver_jax.stages import directories
from beaver_jax.stages import inputs

COMPARISONS = 'comparisons.jsonl'


def settings(config: ml_collections.ConfigDict) -> judges.Settings:
    """The settings of config.judge.

    Raises:
      InputError: One is out of range.
    """
    return inputs.settings(judges.Settings, 'judge', config.judge)


def is_asked(config: ml_collections.ConfigDict, policies: Collection[str]) -> bool:
    """Whether there is a judge, and something for it to compare."""
    return settings(config).on and len(policies) > 1


def is_done(
    config: ml_collections.ConfigDict,
    policies: Collection[str],
    results: Mapping[str, Any],
) -> bool:
    """Whether nothing is left to ask: what has failed is asked again."""
    if not is_asked(config, policies):
        return True
    file = directories.directory(config) / COMPARISONS
    if 'judge' not in results or not file.is_file():
        return False
    with file.open() as lines:
        return all(json.loads(line)['outcome'] != 'failed' for line in lines)


def check(config: ml_collections.ConfigDict) -> None:
    """Looks whether the judge would answer, where there is one.

    Raises:
      ValueError: It would not; or its key is missing.
    """
    judge = settings(config)
    if judge.on:
        judges.check(judge)


def run(
    config: ml_collections.ConfigDict,
    texts: Mapping[str, Sequence[str]],
    prompts: Sequence[sources.Prompt],
) -> dict[str, Any]:
    """Has the judge compare the answers, and writes comparisons.jsonl.

    Args:
      config: Of the evaluation.
      texts: Answers to N prompts, by policy.
      prompts: These prompts.

    Returns:
      {'judge': what results.json holds of it}; {} without a judge, or with nothing to
      compare.

    Raises:
      EndpointError, OSError: See `judges.compare`.
    """
    judge = settings(config)
    if not is_asked(config, texts):
        return {}
    items = [
        judges.Item(
            prompt.prompt,
            prompt.category,
            {name: answers[i] for name, answers in texts.items()},
        )
        for i, prompt in enumerate(prompts)
    ]
    ledger = pathlib.Path(config.run) / judges.LEDGER
    judged = judges.compare(judge, items, config.baseline, ledger)
    rows = (one.row() | {'judge': judge.model} for one in judged.comparisons)
    lines = (json.dumps(metrics_lib.jsonable(x), ensure_ascii=False) for x in rows)
    file = directories.directory(config) / COMPARISONS
    metrics_lib.write_text(file, ''.join(f'{line}\n' for line in lines))
    return {'judge': judges.summarize(judge, judged, config.baseline)}
