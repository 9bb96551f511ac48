"""The stages of reward and cost models: one builder, the kind decides."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import logging
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import layout
from beaver_jax import sharding
from beaver_jax.data import batches
from beaver_jax.data import buckets as buckets_lib
from beaver_jax.data import constraints as constraints_lib
from beaver_jax.data import examples
from beaver_jax.data import sources
from beaver_jax.data import store
from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import hf_config
from beaver_jax.models import score
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import loading
from beaver_jax.stages import outputs
from beaver_jax.stages import records
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import preference

log = logging.getLogger(__name__)
KINDS = ('reward', 'cost')


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> stage_lib.Stage:
    """Builds model, data and step of `configs/reward.py` or `configs/cost.py`."""
    loss = check(config, mesh)
    found = rows(config)
    tokenizer = inputs.load_tokenizer(
        'model.init', config.model.init, config.data.template
    )
    backbone = model_of(config, tokenizer).config.backbone
    inputs.check_tokenizer(tokenizer, backbone, 'config.model')
    inputs.check_length(backbone, config.max_length, 'max_length')
    model, learning, normalizer = load(config, mesh, tokenizer)
    make = functools.partial(
        batches.pairs,
        tokenizer=tokenizer,
        preferred=need(config),
        constraints=constraints(config),
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
        shard=inputs.process_shard(mesh),
        workers=config.data.workers,
    )
    pairs, buckets = _pairs(config, mesh, tokenizer, make, found)
    counts = found.counts
    feed = stage_lib.Feed(mesh, {'pairs': pairs})

    def sums(params, base, batch):
        return preference.preference_eval(
            params, batch, model=learning.over(model, base), config=loss
        )

    held_out = records.once(make, found.test, config.stage)
    evaluate = (
        stage_lib.dataset_means(sums, learning.base, mesh, held_out)
        if held_out is not None
        else lambda state: {}
    )
    whole = counts['examples'] if buckets is None else len(buckets) * config.batch_size
    steps = inputs.count_steps(config, whole)
    optimizer, rate = stage_lib.optimizer(config, 'optimizer', steps)
    init = functools.partial(preference.init, optimizer=optimizer)
    state = stage_lib.born_sharded(mesh, init, learning.params, normalizer)

    def step(state, batch_and_base, key):
        batch, base = batch_and_base
        return preference.preference_step(
            state,
            batch['pairs'],
            key,
            model=learning.over(model, base),
            optimizer=optimizer,
            config=loss,
            parts=config.parts,
            fillers=buckets is not None,
        )

    every = () if buckets is None else (functools.partial(_shapes, buckets.lengths),)
    compiled = stage_lib.Supervised(
        stage_lib.compile_step(mesh, step, state), learning.base, *every
    )
    return stage_lib.Stage(
        state=state,
        step=compiled,
        compile=compiled.compile,
        feed=feed,
        steps=steps,
        evaluate=evaluate,
        export=functools.partial(_export, config, mesh, model, learning, tokenizer),
        rates={'train/lr': rate},
        headline=layout.HEADLINES[config.stage],
        data=_log_counts(config, counts, buckets),
        card=found.card,
        bases=learning_lib.fingerprint(learning.lora, 'model', config.model.init),
    )


def rows(config: ml_collections.ConfigDict) -> records.Found:
    """Pairs to train on, and those held out."""
    read = functools.partial(
        sources.comparisons,
        need=need(config),
        on_bad_row=config.data.on_bad_row,
        contradictions=config.data.contradictions,
    )
    found = records.train_and_test(read, config, f'{config.stage}_pairs')
    try:
        constraints_lib.check_categories(constraints(config), found.train)
    except ValueError as error:
        raise inputs.InputError(f'config.constraints: {error}') from error
    return found


def constraints(
    config: ml_collections.ConfigDict,
) -> tuple[constraints_lib.Constraint, ...]:
    """What the outputs of a cost model learn; of a reward model it does not matter.

    Raises:
      inputs.InputError: config.constraints cannot be read.
    """
    if config.stage == 'reward':
        return (constraints_lib.HARM,)
    try:
        return constraints_lib.parse(config.constraints)
    except ValueError as error:
        raise inputs.InputError(f'config.constraints: {error}') from error


def need(config: ml_collections.ConfigDict) -> sources.Need:
    """What must be known of the pairs of a stage."""
    if config.stage == 'reward':
        return 'better'
    return constraints_lib.need(constraints(config))


def tokenized(
    config: ml_collections.ConfigDict, tokenizer: inputs.Tokenizer, found: records.Found
) -> store.Stored[examples.PairExample]:
    """The pairs to train on, as ids."""
    return examples.encode_pairs(
        found.train,
        tokenizer,
        preferred=need(config),
        constraints=constraints(config),
        max_length=config.max_length,
        workers=config.data.workers,
        **found.noted(),
    )


def _pairs(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    make: Callable[..., Any],
    found: records.Found,
) -> tuple[Any, buckets_lib.Buckets | None]:
    """Batches of pairs, all of one length or in buckets."""
    if config.buckets == 1:
        return make(found.train, **found.noted()), None
    return batches.bucketed_pairs(
        tokenized(config, tokenizer, found),
        pad=tokenizer.pad_token_id,
        max_length=config.max_length,
        batch_size=config.batch_size,
        buckets=config.buckets,
        seed=config.seed,
        shard=inputs.process_shard(mesh),
        counts=found.counts,
    )


def _shapes(lengths: Sequence[int], batch: Any) -> list[Any]:
    """A batch with sequences of these lengths, as shapes."""
    pairs = batch['pairs']

    def shape(leaf, *length):
        full = (*leaf.shape[: len(leaf.shape) - len(length)], *length)
        return jax.ShapeDtypeStruct(full, leaf.dtype, sharding=leaf.sharding)

    same = jax.tree.map(shape, pairs)
    return [
        {
            'pairs': same.replace(
                tokens=shape(pairs.tokens, length), mask=shape(pairs.mask, length)
            )
        }
        for length in lengths
    ]


def _log_counts(
    config: ml_collections.ConfigDict,
    counts: sources.Counts,
    buckets: buckets_lib.Buckets | None,
) -> dict[str, int]:
    """Says what became of the rows, and how much of what is computed is padding."""
    found = records.log_counts(
        config, counts, 'batch_size', 'max_length', bucketed=buckets is not None
    )
    if buckets is None:
        return found
    positions = 2 * buckets.positions, 2 * counts['examples'] * config.max_length
    shares = [100 * (1 - counts['tokens'] / number) for number in positions]
    log.info(
        '%s: buckets: pairs are padded to %s tokens: %.1f%% of the computed positions '
        'are padding; with config.buckets=1 and config.max_length=%d, %.1f%%',
        *(config.stage, ', '.join(map(str, buckets.lengths)), shares[0]),
        *(config.max_length, shares[1]),
    )
    return found


def _export(config, mesh, model, learning, tokenizer, state, directory) -> None:
    folded = learning.folded(mesh, state.model.params)
    outputs.export_score_model(model, folded, state.normalizer, tokenizer, directory)
    if learning.lora.rank:
        outputs.export_score_adapter(
            model.config,
            learning.lora,
            state.model.params,
            state.normalizer,
            config.model.init,
            tokenizer,
            directory.with_name(outputs.ADAPTER),
        )


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> preference.PreferenceConfig:
    """The settings of the loss, after every check of them and of the sizes."""
    stage_lib.check_supervised(config, mesh)
    inputs.check_counts(config, 'buckets')
    inputs.check_template(config, config.model.init)
    return inputs.settings(
        preference.PreferenceConfig,
        'loss',
        config.loss,
        kind=config.stage,
        outputs=tuple(constraint.name for constraint in constraints(config)),
    )


def load(
    config: ml_collections.ConfigDict, mesh: Mesh, tokenizer: inputs.Tokenizer
) -> tuple[score.ScoreModel, learning_lib.Learning, score.Normalizer]:
    """A score model, or a language model's decoder under a fresh head."""
    lora = learning_lib.settings(config.model, 'model')

    def learning(params):
        return learning_lib.of(lora, 'model', mesh, params, config.seed)

    model = model_of(config, tokenizer)
    more = inputs.new_tokens(config.model, 'model', tokenizer, tell=True)
    directory = inputs.model_directory('model.init', config.model.init)
    if hf_config.is_score_model(hf_config.read(directory)):
        _, params, normalizer = loading.score_model(
            mesh, config.model, 'model', frozen=lora.rank > 0, **more
        )
        return model, learning(params), normalizer
    _, decoder = hf.load_backbone(
        directory,
        place=inputs.placer(mesh),
        param_dtype=inputs.param_dtype(config.model, frozen=lora.rank > 0),
        **inputs.compute(config.model, 'model'),
        **more,
    )
    params = loading.init_head(mesh, model, decoder, jax.random.key(config.seed))
    params = loading.few_bits(mesh, config.model, 'model', params)
    normalizer = score.init_normalizer(model.config.score_dim)
    normalizer = jax.device_put(normalizer, sharding.replicated(mesh))
    return model, learning(params), normalizer


def model_of(
    config: ml_collections.ConfigDict, tokenizer: inputs.Tokenizer
) -> score.ScoreModel:
    """The score model that a stage of preferences trains, without its parameters."""
    directory = inputs.model_directory('model.init', config.model.init)
    fields = inputs.compute(config.model, 'model')
    fields |= inputs.new_tokens(config.model, 'model', tokenizer)
    if hf_config.is_score_model(hf_config.read(directory)):
        model = hf.score_model(directory, **fields)
        wanted = len(constraints(config))
        if model.config.score_dim < wanted:
            raise inputs.InputError(
                f'config.constraints names {wanted} outputs; the score model '
                f'{directory} has {model.config.score_dim}: start from a language '
                'model, or name fewer.'
            )
        # Of this kind from now on, whatever it was: the kind decides normalization.
        changed = dataclasses.replace(model.config, score_type=config.stage)
        return score.ScoreModel(changed)
    settings = inputs.settings(
        config_lib.ScoreConfig,
        'model.head',
        config.model.head,
        backbone=hf.backbone_config(directory, **fields),
        score_type=config.stage,
    )
    outputs = max(settings.score_dim, len(constraints(config)))
    return score.ScoreModel(dataclasses.replace(settings, score_dim=outputs))
