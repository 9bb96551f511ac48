"""The stage of supervised fine-tuning."""

from collections import Counter
import functools

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax.data import batches
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import transformer
from beaver_jax.stages import inputs
from beaver_jax.stages import outputs
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import sft


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> stage_lib.Stage:
    """Builds model, data and step of `configs/sft.py`."""
    check(config, mesh)
    counts: Counter = Counter()
    read = functools.partial(sources.demonstrations, on_bad_row=config.data.on_bad_row)
    train, test = inputs.train_and_test(read, config, 'sft', counts)
    model, params, tokenizer = _load(config, mesh)
    make = functools.partial(
        batches.sft,
        tokenizer=tokenizer,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
        shard=inputs.process_shard(),
    )
    feed = stage_lib.Feed(mesh, {'sft': make(train, counts=counts)})
    sums = functools.partial(sft.sft_eval, model=model)
    evaluate = (
        stage_lib.dataset_means(sums, mesh, make(test, once=True))
        if test
        else lambda state: {}
    )
    steps = inputs.count_steps(config, counts['examples'])
    optimizer, rate = stage_lib.optimizer(config, 'optimizer', steps)
    init = functools.partial(sft.init, optimizer=optimizer)
    state = stage_lib.born_sharded(mesh, init, params)

    def step(state, batch, key):
        return sft.sft_step(
            state,
            batch['sft'],
            key,
            model=model,
            optimizer=optimizer,
            parts=config.parts,
        )

    return stage_lib.Stage(
        state=state,
        step=stage_lib.timed(stage_lib.compile_step(mesh, step, state)),
        feed=feed,
        steps=steps,
        evaluate=evaluate,
        export=lambda state, directory: outputs.export_causal_lm(
            model, state.model.params, tokenizer, directory
        ),
        rates={'train/lr': rate},
        headline=('train/loss',),
        data=inputs.log_counts('sft', counts),
    )


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Refuses settings that do not fit, or nothing to start from."""
    stage_lib.check_supervised(config, mesh)
    if not config.model.init and not config.model.tokenizer:
        raise inputs.InputError(
            'config.base is empty; name the model directory to start from, '
            '--config.base=DIRECTORY.'
        )


def _load(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[transformer.CausalLM, dict, inputs.Tokenizer]:
    """The model to start from: config.model.init, or a fresh one without it."""
    if config.model.init:
        tokenizer = inputs.load_tokenizer('model.init', config.model.init)
        model, params = inputs.causal_lm(mesh, config.model, 'model')
    else:
        tokenizer = tokenizer_lib.load(config.model.tokenizer)
        key = jax.random.key(config.seed)
        model, params = inputs.new_causal_lm(mesh, config.model, tokenizer, key)
    inputs.check_tokenizer(tokenizer, model.config, 'config.model')
    inputs.check_length(model.config, config.max_length, 'max_length')
    return model, params, tokenizer
