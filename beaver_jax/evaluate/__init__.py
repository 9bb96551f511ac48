"""Compares policies on held-out prompts, by score models and, where known, by gold.

`run` answers every prompt with every policy, scores the answers, and writes
`config.json`, `samples.jsonl` and `results.json` into `<run>/evaluate/`; where there
is a judge, `comparisons.jsonl` too.
"""

from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import io
import json
import logging
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from beaver_jax import distributed
from beaver_jax import heartbeats
from beaver_jax import metrics as metrics_lib
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import terminal
from beaver_jax.data import sources
from beaver_jax.data import world
from beaver_jax.evaluate import answers as answers_lib
from beaver_jax.evaluate import categories
from beaver_jax.evaluate import earlier
from beaver_jax.evaluate import evaluators
from beaver_jax.evaluate import judging
from beaver_jax.evaluate import pairs as pairs_lib
from beaver_jax.evaluate import provenance
from beaver_jax.report import summary as summaries
from beaver_jax.rollout import sampling
from beaver_jax.stages import directories
from beaver_jax.stages import held_out
from beaver_jax.stages import inputs
from beaver_jax.stages import records

log = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Evaluates the policies of a config and returns what results.json holds.

    One that is finished, under the same config and of the same models and data, is
    not made again: its judge is asked what has failed. What another one left is kept,
    as config.if_exists says; one of other models or data in the same places is moved
    aside.

    Raises:
      InputError: A model or file that is missing, no policy to evaluate, or another
        evaluation in the run.
      EndpointError: The judge does not answer; what it is not needed for is written.
    """
    inputs.settle(config)
    check(config, mesh)
    paths = policies(config)
    distributed.by_first(directories.check, config)
    for name, path in paths.items():
        answers_lib.check(config, name, path)
    records.prepare_world(config)
    counts = sources.Counts()
    prompts = records.test_prompts(config, counts)
    data = records.tell('evaluate', counts)
    benign = benign_prompts(config, prompts)
    comparisons = held_out.pairs(config)
    digests, before = distributed.by_first(_before, config, paths, prompts, comparisons)
    if before.standing == 'same':
        return distributed.by_first(_finished, config, paths, prompts, before.results)

    judging.check(config)
    others = len(paths) > 1
    scorer = answers_lib.Scorer(config, mesh, paths[config.baseline] if others else '')
    directories.claim(config, aside=before.standing == 'other')
    directory = directories.directory(config)
    with heartbeats.Heart(
        directory,
        place=(jax.process_index(), jax.process_count()),
        step=0,
        steps=len(paths),
        every=config.log.heartbeat,
    ) as heart:
        heart.does(heartbeats.COMPUTING)
        score_models = {
            name: pairs_lib.summarize(scorer.pairs(name, some))
            for name, some in comparisons.items()
        }
        found = {}
        for i, (name, path) in enumerate(paths.items(), start=1):
            heart.does(heartbeats.COMPUTING)
            asked = terminal.counted(len(prompts), 'prompt')
            log.info('evaluate: %s answers %s', name, asked)
            answers = scorer.answer(name, path, prompts)
            answers = dataclasses.replace(answers, benign=benign)
            found[name] = with_gold(answers, prompts) if config.data.world else answers
            heart.done(i)
        heart.does(heartbeats.FINISHING)
        results = summarize(found, config.baseline)
        groups = [prompt.category for prompt in prompts]
        results['categories'] = categories.summarize(found, config.baseline, groups)
        results |= {'score_models': score_models, 'data': data, 'digests': digests}
        if jax.process_index() == 0:
            _write(directory, results, samples(found, prompts))
            # A judge may refuse at any time, which costs no more than its own results.
            texts = {name: answers.texts for name, answers in found.items()}
            results = _judged(config, texts, prompts, results)
        distributed.barrier('evaluate is done')
    return results


def _before(
    config: ml_collections.ConfigDict,
    paths: Mapping[str, str],
    prompts: Sequence[sources.Prompt],
    comparisons: Mapping[str, Sequence[sources.Comparison]],
) -> tuple[provenance.Digests, earlier.Earlier]:
    digests = provenance.of(config, paths, prompts, comparisons)
    return digests, earlier.find(config, digests)


def _finished(
    config: ml_collections.ConfigDict,
    paths: Mapping[str, str],
    prompts: Sequence[sources.Prompt],
    results: dict[str, Any],
) -> dict[str, Any]:
    """The results that are there, with what the judge has still to say."""
    directory = directories.directory(config)
    log.info('%s holds this evaluation already; move it away for another', directory)
    if judging.is_done(config, paths, results):
        return results
    judging.check(config)
    return _judged(config, earlier.texts(config, list(paths)), prompts, results)


def _judged(
    config: ml_collections.ConfigDict,
    texts: Mapping[str, Sequence[str]],
    prompts: Sequence[sources.Prompt],
    results: dict[str, Any],
) -> dict[str, Any]:
    """Results with the judge's, where there is one, which are written."""
    if judged := judging.run(config, texts, prompts):
        results = results | judged
        file = directories.directory(config) / directories.RESULTS
        metrics_lib.write_json(file, results)
    return results


def _write(
    directory: pathlib.Path, results: dict[str, Any], rows: Iterator[dict[str, Any]]
) -> None:
    # Of other answers than these.
    (directory / judging.COMPARISONS).unlink(missing_ok=True)
    with (directory / earlier.SAMPLES).open('w') as lines:
        for row in rows:
            lines.write(json.dumps(metrics_lib.jsonable(row)) + '\n')
    metrics_lib.write_json(directory / directories.RESULTS, results)
    log.info('evaluate: wrote %s/%s and samples.jsonl', directory, directories.RESULTS)


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Refuses settings that are wrong, before anything is read.

    Raises:
      ValueError: One is out of range, or does not fit the mesh.
    """
    inputs.check_loop(config)
    inputs.check_counts(config, 'max_prompt_length', 'max_response_length')
    inputs.check_max_lengths(config)
    judging.settings(config)
    inputs.settings(sampling.Sampler, 'sampler', config.sampler)
    for name, section in ({'policy': config.policy} | inputs.scorers(config)).items():
        inputs.compute(section, name)
        inputs.check_quantize(section, name)
    sharding.check_batch(mesh, 'config.batch_size', config.batch_size)


def policies(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Directories by name: those of config.models, or the run's finished policies.

    Raises:
      InputError: None, one that is not NAME=DIRECTORY, a name that is given twice, or
        no baseline among them.
    """
    if config.models:
        pairs = [part.partition('=') for part in config.models.split(',')]
        if not all(name and path for name, _, path in pairs):
            raise inputs.InputError(
                f'config.models={config.models!r} is not NAME=DIRECTORY,…'
            )
        found = {name.strip(): path.strip() for name, _, path in pairs}
        if len(found) < len(pairs):
            raise inputs.InputError(
                f'config.models={config.models!r} gives a name twice; every policy '
                'needs its own.'
            )
        if taken := sorted(found.keys() & summaries.RESERVED):
            raise inputs.InputError(
                f'config.models={config.models!r}: {taken[0]!r} has a meaning of its '
                'own in reports; name the policy otherwise.'
            )
    else:
        paths = {name: pathlib.Path(config.run) / name for name in stages.POLICIES}
        found = {n: str(path) for n, path in paths.items() if directories.is_done(path)}
    if config.baseline not in found:
        raise inputs.InputError(
            f'config.baseline={config.baseline!r} is not among the policies '
            f'({", ".join(found) or f"none of {config.run} is finished"}); train it, '
            'or name another '
            'with --config.baseline and --config.models.'
        )
    return found


def benign_prompts(
    config: ml_collections.ConfigDict, prompts: Sequence[sources.Prompt]
) -> np.ndarray:
    """Which prompts ask for nothing risky, [N] bool: a refusal of them is wrong.

    config.benign names their categories as a row of CSV: one with a comma in it stands
    in double quotes.

    Raises:
      InputError: config.benign names a category that no prompt has.
    """
    if config.data.world and not config.benign:
        return np.array([world.is_benign(one.prompt[-1]) for one in prompts], bool)
    try:
        reader = csv.reader([config.benign], skipinitialspace=True, strict=True)
        row = next(reader, [])
    except csv.Error as error:
        raise inputs.InputError(
            f'config.benign={config.benign!r} is no row of CSV ({error}).'
        ) from error
    names = [name.strip() for name in row if name.strip()]
    known = {prompt.category for prompt in prompts}
    if missing := [name for name in names if name not in known]:
        raise inputs.InputError(
            f'config.benign={config.benign!r}: no prompt is of the category '
            f'{missing[0]!r}; there are: {_row(sorted(known - {""})) or "none"}.'
        )
    return np.array([prompt.category in names for prompt in prompts], bool)


def _row(names: Sequence[str]) -> str:
    """Names as config.benign wants them."""
    text = io.StringIO()
    csv.writer(text, lineterminator='').writerow(names)
    return text.getvalue()


def with_gold(
    answers: evaluators.Answers, prompts: Sequence[sources.Prompt]
) -> evaluators.Answers:
    """Adds what the built-in world knows of its answers."""
    pairs = list(zip(prompts, answers.texts, strict=True))
    return answers.with_gold(
        [world.helpfulness(prompt.prompt[-1], text) for prompt, text in pairs],
        [world.cost(prompt.prompt[-1], text) for prompt, text in pairs],
    )


def summarize(found: dict[str, evaluators.Answers], baseline: str) -> dict[str, Any]:
    """What results.json holds."""
    base = found[baseline]
    return {
        'prompts': len(base.texts),
        'baseline': baseline,
        'costs': list(base.costs),
        'models': {
            name: dict(evaluators.policy(answers))
            | dict(evaluators.comparison(answers, base))
            for name, answers in found.items()
        },
        'intervals': {
            name: evaluators.rate_intervals(answers, base)
            for name, answers in found.items()
        },
        'elo': evaluators.ratings(found, baseline),
        'tables': {
            f'{name} vs {baseline}': evaluators.safety_table(answers, base)
            for name, answers in found.items()
            if name != baseline and answers.costs
        },
    }


def samples(
    found: dict[str, evaluators.Answers], prompts: Sequence[sources.Prompt]
) -> Iterator[dict[str, Any]]:
    """The rows of samples.jsonl: a prompt, and every policy's answer with scores."""
    for i, prompt in enumerate(prompts):
        rows = {name: answers.row(i) for name, answers in found.items()}
        named = {'category': prompt.category} if prompt.category else {}
        yield {'prompt': prompt.prompt[-1], **named, 'answers': rows}
