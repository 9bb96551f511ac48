"""What differs between runs: their configs, and how they were evaluated."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
import pathlib
from typing import Any, NamedTuple

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


class Setting(NamedTuple):
    """A value that is compared, and how it is shown."""

    identity: str
    shown: str


def scoring(runs: Mapping[str, files.Run]) -> dict[str, dict[str, Setting]]:
    """What rewards and costs are of: settings of the score models, by run and key.

    Models are known by their digests where all runs have them, else by their places. A
    run whose evaluate/config.json is missing has none.
    """
    digests = {
        name: run.results['digests']
        for name, run in runs.items()
        if run.evaluation and 'digests' in run.results
    }
    all_have = digests.keys() == {n for n, run in runs.items() if run.evaluation}

    def setting(run: str, key: str, text: str) -> Setting:
        if not (all_have and key.endswith('.init')):
            return Setting(text, text)
        digest = digests[run].get(key.removesuffix('.init'), '')
        return Setting(digest, f'{text} (digest {digest[:12]}…)')

    return {
        name: {
            key: setting(name, key, text)
            for key, text in _score_models(run.evaluation, run).items()
        }
        for name, run in runs.items()
    }


def on_one_scale(runs: Mapping[str, files.Run]) -> bool:
    """Whether the policies of all runs were trained under the same score models."""
    settings = [
        _score_models(stage.config, run)
        for run in runs.values()
        for stage in run.stages.values()
        if stage.is_policy
    ]
    # Plain PPO knows no cost.
    known: dict[str, str] = {}
    return all(
        known.setdefault(key, value) == value
        for found in settings
        for key, value in found.items()
    )


def _score_models(config: Mapping[str, Any], run: files.Run) -> dict[str, str]:
    """What a config of a run says of score models, as texts."""
    found = {}
    for key, value in sorted(config.items()):
        model, _, name = key.rpartition('.')
        if name in _SCORES and (model == 'reward' or model.startswith('costs.')):
            if name == 'init':
                value = _place(value, run, config.get('run') or '.')
            found[key] = json.dumps(value, ensure_ascii=False)
    return found


def _place(model: Any, run: files.Run, before: str) -> Any:
    """Where a model is now: a run may have been moved with the models in it."""
    if not isinstance(model, str):
        return model
    within = layout.moved(model, before, f'{run.path}')
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
    evaluated = {name: run for name, run in runs.items() if run.policies}
    settings = {
        name: {key: one.identity for key, one in values.items()}
        for name, values in scoring(evaluated).items()
    }
    for name, run in evaluated.items():
        for group in found:
            first = group[0]
            alike = settings[first] == settings[name]
            known = settings[name] and run.samples
            if known and alike and prompts(runs[first]) == prompts(run):
                group.append(name)
                break
        else:
            found.append([name])
    return found


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
    settings = scoring(runs)
    unknown = [name for name, found in settings.items() if not found]
    if unknown:
        yield (
            f'Not known, for want of {EVALUATION}/{layout.CONFIG}, what gave the '
            f'scores of {" and ".join(unknown)}.'
        )
    known = {name: found for name, found in settings.items() if found}
    if said := '; '.join(_differing(known)):
        yield f'Different score models: {said}.'
    unkept = [name for name, run in runs.items() if not run.samples]
    if unkept:
        yield (
            f'Not known, for want of {EVALUATION}/samples.jsonl, what the prompts '
            f'of {" and ".join(unkept)} were.'
        )
    asked: dict[tuple[str, ...], list[str]] = {}
    for name, run in runs.items():
        if run.samples:
            asked.setdefault(tuple(prompts(run)), []).append(name)
    if len(asked) > 1:
        counts = (f'{len(one):,} of {" and ".join(who)}' for one, who in asked.items())
        yield f'Different prompts: {"; ".join(counts)}.'


def _sampled_differently(runs: Mapping[str, files.Run]) -> Iterator[str]:
    return _differing(
        {
            name: {
                key: Setting(text := json.dumps(value), text)
                for key, value in run.evaluation.items()
                if key.partition('.')[0] in _SAMPLING
            }
            for name, run in runs.items()
            if run.evaluation
        }
    )


def _differing(settings: Mapping[str, Mapping[str, Setting]]) -> Iterator[str]:
    """What differs between settings by run, a key after the other."""
    missing = Setting(MISSING, MISSING)
    for key in sorted({key for found in settings.values() for key in found}):
        values = {name: found.get(key, missing) for name, found in settings.items()}
        if len({value.identity for value in values.values()}) > 1:
            yield _told(key, values)


def _told(key: str, values: Mapping[str, Setting]) -> str:
    """E.g. 'seed is 0 in tiny and loose, 1 in other'."""
    names: dict[str, list[str]] = {}
    shown: dict[str, str] = {}  # of equal ones the first
    for name, value in values.items():
        names.setdefault(value.identity, []).append(name)
        shown.setdefault(value.identity, value.shown)
    said = (f'{shown[one]} in {" and ".join(found)}' for one, found in names.items())
    return f'{key} is {", ".join(said)}'


def same_prompts(runs: Sequence[files.Run]) -> bool:
    """Whether all that kept answers were asked the same; so two at the least."""
    asked = [prompts(run) for run in runs if run.samples]
    return len(asked) > 1 and all(one == asked[0] for one in asked)
