"""Answers prompts with a policy and scores them with reward and cost models."""

from collections.abc import Sequence
import functools
import logging
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.data import batches
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.evaluate import baseline as baseline_lib
from beaver_jax.evaluate import evaluators
from beaver_jax.evaluate import pairs as pairs_lib
from beaver_jax.models import hf
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.stages import bridge
from beaver_jax.stages import inputs
from beaver_jax.stages import loading
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import scorers as scorers_lib
from beaver_jax.steps import preference

log = logging.getLogger(__name__)


def check(config: ml_collections.ConfigDict, name: str, path: str) -> None:
    """Refuses a policy that cannot be sampled or scored, before anything is loaded.

    Args:
      config: Of the evaluation.
      name: Of the policy, for messages.
      path: Its directory, or that of its stage.

    Raises:
      InputError: It is no model, is made for shorter sequences, or the score models
        are missing or cannot read its answers.
    """
    directory = inputs.model_directory(f'models.{name}', path)
    inputs.check_kind(f'config.models.{name}={path!r}', directory)
    decoder = hf.backbone_config(directory)
    ppo_settings.check_lengths(config, decoder, name)
    inputs.check_template(config, path)
    tokenizer = inputs.load_tokenizer(f'models.{name}', path, config.data.template)
    inputs.check_tokenizer(tokenizer, decoder, f'config.models.{name}')
    try:
        tokenizer_lib.shorten(tokenizer, ('?',), max_length=config.max_prompt_length)
    except ValueError as error:
        raise inputs.InputError(f'config.max_prompt_length: {error}') from error
    bridge.announce(bridge.readers(config, tokenizer), name)


class Scorer:
    """What judges answers in an evaluation, loaded once for all policies."""

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh, baseline: str):
        """Loads the reward model, the cost models, and the baseline for the KL.

        Args:
          config: Of the evaluation.
          mesh: Of all models.
          baseline: Directory of the policy that KL is measured to, '' for no KL.

        Raises:
          InputError: One is missing.
        """
        self._config, self._mesh = config, mesh
        self._sampler = sampling.Sampler(**config.sampler.to_dict())
        self._baseline = None
        if baseline and config.kl and _says_kl(self._sampler):
            self._baseline = baseline_lib.Baseline(config, mesh, baseline)
        scorers = {
            name: scorers_lib.scorer(section, mesh, name)
            for name, section in inputs.scorers(config).items()
        }
        self._scorers = scorers
        self._params = {name: one.params() for name, one in scorers.items()}
        self._score = jax.jit(
            lambda params, samples, views: {
                name: one.function(params[name], read.tokens, read.mask)
                for name, one in scorers.items()
                for read in [views.get(name, samples)]
            }
        )

    def answer(
        self, name: str, path: str, prompts: Sequence[sources.Prompt]
    ) -> evaluators.Answers:
        """Samples an answer to every prompt and scores it.

        Args:
          name: Of the policy, for messages.
          path: Its directory, or that of its stage.
          prompts: N prompts.

        Raises:
          InputError: As in `check`.
        """
        config = self._config
        tokenizer = inputs.load_tokenizer(f'models.{name}', path, config.data.template)
        base, is_base = self._baseline, name == config.baseline
        if base is not None and is_base:
            model, params = base.model, base.params
        else:
            section = config.policy.to_dict() | {'init': path}
            model, params = loading.causal_lm(
                self._mesh,
                ml_collections.ConfigDict(section),
                f'models.{name}',
                frozen=True,
            )
        sample = functools.partial(
            _generate,
            model=model,
            response_length=config.max_response_length,
            sampler=self._sampler,
            eos_ids=(tokenizer.eos_token_id,),
            pad_id=tokenizer.pad_token_id,
        )
        counts = sources.Counts()
        dataset = batches.prompts(
            prompts,
            tokenizer,
            max_prompt_length=config.max_prompt_length,
            batch_size=config.batch_size,
            shard=inputs.process_shard(self._mesh),
            once=True,
            workers=config.data.workers,
            counts=counts,
        )
        if cut := counts['shortened_prompt']:
            log.info(
                'evaluate: %s: %d prompts are shortened to max_prompt_length', name, cut
            )
        views_of = bridge.make(
            self._mesh,
            tokenizer,
            prompts,
            bridge.readers(config, tokenizer),
            max_prompt_length=config.max_prompt_length,
        )
        key = jax.random.key(config.seed)
        kl = None
        if base is not None and not is_base:
            kl = base.kl_of(tokenizer, name)
        parts = []
        for batch in dataset:
            batch = sharding.put_batch(self._mesh, batch)
            samples = sample(params, batch, key)
            views, _ = views_of(batch.row, samples)
            scores = self._score(self._params, samples, views)
            far = None if kl is None else kl(samples)
            parts.append(sharding.to_host((batch.row, samples, scores, far)))
        row, *found = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        real = np.flatnonzero(row >= 0)
        order = real[np.argsort(row[real])]
        return self._answers(tokenizer, *_take(found, order))

    def pairs(
        self, name: str, comparisons: Sequence[sources.Comparison]
    ) -> pairs_lib.Pairs:
        """Scores both responses of held-out pairs.

        Args:
          name: Of the score model, 'reward' or 'costs.<name>'.
          comparisons: N pairs, whose better or safer response is known.

        Raises:
          DataError: No pair fits.
        """
        config, one = self._config, self._scorers[name]
        section = inputs.scorers(config)[name]
        tokenizer = inputs.load_tokenizer(f'{name}.init', section.init)
        counts = sources.Counts()
        longest = config.max_prompt_length + config.max_response_length
        most = min(
            section.max_length or 2 * longest, one.model.config.backbone.max_positions
        )
        dataset = batches.pairs(
            comparisons,
            tokenizer,
            preferred='better' if name == 'reward' else 'safer',
            max_length=most,
            batch_size=config.batch_size,
            shard=inputs.process_shard(self._mesh),
            once=True,
            counts=counts,
            workers=config.data.workers,
        )
        log.info(
            'evaluate: %s on %d pairs; %d more are alike within %d tokens, and %d '
            'responses are cut to that',
            *(name, counts['examples'], counts['identical_tokens'], most),
            counts['cut_response'],
        )
        # Most pairs are much shorter than they may be, and padding is computed.
        width = min(most, -(-counts['longest'] // 32) * 32)
        ends_of = jax.jit(functools.partial(preference.pair_ends, model=one.model))
        parts = []
        for batch in dataset:
            batch = batch.replace(
                tokens=batch.tokens[..., :width], mask=batch.mask[..., :width]
            )
            batch = sharding.put_batch(self._mesh, batch)
            ends = ends_of(one.held.params, batch)[..., section.output]
            parts.append(
                sharding.to_host((batch.valid, ends, batch.safety_sign[..., 0]))
            )
        valid, scores, safety = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        finite = np.isfinite(scores).all(axis=1)
        if lost := int(np.sum(valid & ~finite)):
            log.warning('evaluate: %s: %d pairs have scores that are none', name, lost)
        kept = valid & finite
        return pairs_lib.Pairs(
            scores[kept].astype(float), None if name == 'reward' else safety[kept]
        )

    def _answers(
        self,
        tokenizer: inputs.Tokenizer,
        samples: types.Samples,
        scores: Any,
        kl: np.ndarray | None,
    ) -> evaluators.Answers:
        lengths = samples.response_mask.sum(axis=1)
        start = samples.tokens.shape[1] - samples.response_mask.shape[1]
        words = lengths - ~samples.truncated  # without the EOS
        ids = [
            tokens[start : start + count].tolist()
            for tokens, count in zip(samples.tokens, words, strict=True)
        ]
        return evaluators.Answers(
            texts=[tokenizer_lib.decode(tokenizer, one) for one in ids],
            tokens=ids,
            kl=kl,
            reward=scores['reward'][:, 0],
            costs={
                name: scores[f'costs.{name}'][:, cost.output]
                for name, cost in self._config.costs.items()
            },
            length=np.asarray(lengths),
            truncated=np.asarray(samples.truncated),
        )


def _says_kl(sampler: sampling.Sampler) -> bool:
    """Whether samples are the policy's own, at some temperature, and not some of them.

    Of others log π(y|x) - log π_baseline(y|x) has another mean than KL.
    """
    plain = sampling.Sampler(temperature=sampler.temperature)
    says = sampler == plain and sampler.temperature > 0
    if not says:
        log.info('evaluate: no KL to the baseline: answers are no plain samples')
    return says


# One for all policies: those of one size are compiled once.
_generate = jax.jit(
    generate.generate,
    static_argnames=('model', 'response_length', 'sampler', 'eos_ids', 'pad_id'),
)


def _take(tree: Any, order: np.ndarray) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[order], tree)
