"""What differs between runs: their configs, and how they were evaluated."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
import pathlib
from typing import Any

from beaver_jax import layout
from beaver_jax.report import files

EVALUATION = 'evaluate'
MISSING = '-'  # a key that a run's config lacks
# Of a score model, what its scores depend on.
_SCORES = ('init', 'output', 'normalize', 'max_length', 'quantize', 'dtype')
# What answers depend on beside the policy.
_SAMPLING = ('seed', 'max_prompt_length', 'max_response_length', 'sampler')

Differences = dict[str, dict[str, dict[str, str]]]  # stage, key, run


def configs(runs: Mapping[str, files.Run]) -> Differences:
    """Values by stage, key and run, of the keys whose values differ.

    A path in the run's own directory is told from there, as RUN/sft, so that it does
    not differ for the run's name alone. Stages that a run lacks are not compared.
    """
    stages = dict.fromkeys(name for run in runs.values() for name in run.stages)
    found = {}
    for stage in (*stages, EVALUATION):
        values = {
            name: _within(config)
            for name, run in runs.items()
            if (config := _config(run, stage))
        }
        keys = sorted({key for config in values.values() for key in config})
        differing = {
            key: {name: config.get(key, MISSING) for name, config in values.items()}
            for key in keys
            if len({config.get(key, MISSING) for config in values.values()}) > 1
        }
        if differing:
            found[stage] = differing
    return found


def _config(run: files.Run, stage: str) -> dict[str, Any]:
    if stage == EVALUATION:
        return run.evaluation
    return run.stages[stage].config if stage in run.stages else {}


def _within(config: Mapping[str, Any]) -> dict[str, str]:
    """The values as texts, with RUN for the directory of the run."""
    own = config.get('run')
    texts = {}
    for key, value in config.items():
        if isinstance(value, str) and own:
            value = layout.moved(value, own, 'RUN')
        texts[key] = json.dumps(value, ensure_ascii=False)
    texts.pop('run', None)
    return texts


def scoring(run: files.Run) -> dict[str, str]:
    """What rewards and costs of an evaluation are of: settings of its score models.

    The models themselves are told by their digests, or where these are missing by
    their places. Empty where evaluate/config.json is missing.
    """
    digests = run.results.get('digests', {}).get('score_models', {})
    found = {}
    for key, value in sorted(run.evaluation.items()):
        model, _, name = key.rpartition('.')
        if name in _SCORES and (model == 'reward' or model.startswith('costs.')):
            if name == 'init':
                digest = digests.get(model, '')[:12]
                value = f'SHA-256 {digest}…' if digest else _place(value, run)
            found[key] = json.dumps(value, ensure_ascii=False)
    return found


def same_score_models(runs: Mapping[str, files.Run]) -> bool:
    """Whether all evaluations were scored alike, as far as that is known."""
    found = [scoring(run) for run in runs.values() if run.policies]
    return all(one == found[0] for one in found)


def _place(model: Any, run: files.Run) -> Any:
    """Where a model is now: a run may have been moved with the models in it."""
    if not isinstance(model, str):
        return model
    within = layout.moved(model, run.evaluation.get('run') or '.', f'{run.path}')
    # What is no directory is a name of the hub's.
    return os.path.abspath(within) if pathlib.Path(within).is_dir() else model


def prompts(run: files.Run) -> list[str]:
    """What was asked in the evaluation."""
    return [row['prompt'] for row in run.samples]


def groups(runs: Mapping[str, files.Run]) -> list[list[str]]:
    """Names of the evaluated runs, those together whose scores can be compared.

    These have the same score models, under the same settings, and the same prompts.
    Where that is not known of a run, it stands alone.
    """
    found: list[list[str]] = []
    for name, run in runs.items():
        if not run.policies:
            continue
        for group in found:
            first = runs[group[0]]
            if scoring(run) and run.samples and _is_alike(first, run):
                group.append(name)
                break
        else:
            found.append([name])
    return found


def _is_alike(one: files.Run, other: files.Run) -> bool:
    return scoring(one) == scoring(other) and prompts(one) == prompts(other)


def notes(runs: Mapping[str, files.Run]) -> list[str]:
    """Says, in a sentence each, what to know before scores are compared."""
    evaluated = {name: run for name, run in runs.items() if run.policies}
    lacking = [name for name in runs if name not in evaluated]
    found = [f'Not evaluated: {", ".join(lacking)}.'] if lacking else []
    together = groups(runs)
    if len(together) > 1:
        parted = '; '.join(', '.join(group) for group in together)
        found.append(
            'Rewards and costs cannot be compared between all of these runs, only '
            f'within each of: {parted}.'
        )
        found += _reasons(evaluated)
    if said := '; '.join(_sampled_differently(evaluated)):
        found.append(
            f'Answers were drawn differently, which changes them and not how they are '
            f'scored: {said}.'
        )
    return found


def _reasons(runs: Mapping[str, files.Run]) -> Iterator[str]:
    unknown = [name for name, run in runs.items() if not scoring(run)]
    if unknown:
        yield (
            f'Not known, for want of {EVALUATION}/{layout.CONFIG}, what gave the '
            f'scores of {" and ".join(unknown)}.'
        )
    known = {name: scoring(run) for name, run in runs.items() if scoring(run)}
    if said := '; '.join(_differing(known)):
        yield f'Different score models: {said}.'
    unkept = [name for name, run in runs.items() if not run.samples]
    if unkept:
        yield (
            f'Not known, for want of {EVALUATION}/samples.jsonl, what the prompts '
            f'of {" and ".join(unkept)} were.'
        )
    asked = {tuple(prompts(run)) for run in runs.values() if run.samples}
    if len(asked) > 1:
        yield 'Different prompts.'


def _sampled_differently(runs: Mapping[str, files.Run]) -> Iterator[str]:
    return _differing(
        {
            name: {
                key: json.dumps(value)
                for key, value in run.evaluation.items()
                if key.partition('.')[0] in _SAMPLING
            }
            for name, run in runs.items()
            if run.evaluation
        }
    )


def _differing(settings: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What differs between settings by run, a key after the other."""
    for key in sorted({key for found in settings.values() for key in found}):
        values = {name: found.get(key, MISSING) for name, found in settings.items()}
        if len(set(values.values())) > 1:
            yield _told(key, values)


def _told(key: str, values: Mapping[str, str]) -> str:
    """E.g. 'seed is 0 in tiny and loose, 1 in other'."""
    names: dict[str, list[str]] = {}
    for name, text in values.items():
        names.setdefault(text, []).append(name)
    said = (f'{text} in {" and ".join(found)}' for text, found in names.items())
    return f'{key} is {", ".join(said)}'


def same_prompts(runs: Sequence[files.Run]) -> bool:
    """Whether all that kept answers were asked the same; so two at the least."""
    asked = [prompts(run) for run in runs if run.samples]
    return len(asked) > 1 and all(one == asked[0] for one in asked)
