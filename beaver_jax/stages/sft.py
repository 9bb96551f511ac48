"""The stage of supervised fine-tuning."""

import functools

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import layout
from beaver_jax.data import batches
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import transformer
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import loading
from beaver_jax.stages import outputs
from beaver_jax.stages import records
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import sft


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> stage_lib.Stage:
    """Builds model, data and step of `configs/sft.py`."""
    check(config, mesh)
    found = rows(config)
    model, learning, tokenizer = load(config, mesh)
    make = functools.partial(
        batches.sft,
        tokenizer=tokenizer,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
        shard=inputs.process_shard(mesh),
        workers=config.data.workers,
    )
    feed = stage_lib.Feed(
        mesh, {'sft': make(found.train, pack=config.pack, **found.noted())}
    )
    counts = found.counts

    def sums(params, base, batch):
        return sft.sft_eval(params, batch, model=learning.over(model, base))

    held_out = records.once(make, found.test, config.stage)
    evaluate = (
        stage_lib.dataset_means(sums, learning.base, mesh, held_out)
        if held_out is not None
        else lambda state: {}
    )
    steps = inputs.count_steps(config, counts['packed'] or counts['examples'])
    optimizer, rate = stage_lib.optimizer(config, 'optimizer', steps)
    init = functools.partial(sft.init, optimizer=optimizer)
    state = stage_lib.born_sharded(mesh, init, learning.params)

    def step(state, batch_and_base, key):
        batch, base = batch_and_base
        return sft.sft_step(
            state,
            batch['sft'],
            key,
            model=learning.over(model, base),
            optimizer=optimizer,
            parts=config.parts,
        )

    compiled = stage_lib.Supervised(
        stage_lib.compile_step(mesh, step, state), learning.base
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
        data=records.log_counts(config, counts, 'batch_size', 'max_length'),
        card=found.card,
        bases=learning_lib.fingerprint(learning.lora, 'model', config.model.init),
    )


def rows(config: ml_collections.ConfigDict) -> records.Found:
    """Supervised rows to train on, and those held out."""
    read = functools.partial(sources.demonstrations, on_bad_row=config.data.on_bad_row)
    return records.train_and_test(read, config, 'sft')


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Refuses settings that do not fit, or nothing to start from."""
    stage_lib.check_supervised(config, mesh)
    if not config.model.init and config.model.lora.rank:
        raise inputs.InputError(
            f'config.model.lora.rank={config.model.lora.rank} adapts a trained model; '
            'name it with --config.base=DIRECTORY.'
        )
    check_base(config)
    inputs.check_template(config, config.model.init or config.model.tokenizer)


def check_base(config: ml_collections.ConfigDict) -> None:
    """Refuses to begin with nothing."""
    if not config.model.init and not config.model.tokenizer:
        raise inputs.InputError(
            'config.base is empty; name the model directory to start from, '
            '--config.base=DIRECTORY.'
        )


def _export(config, mesh, model, learning, tokenizer, state, directory) -> None:
    params = learning.folded(mesh, state.model.params)
    outputs.export_causal_lm(model, params, tokenizer, directory)
    if learning.lora.rank:
        outputs.export_adapter(
            model.config,
            learning.lora,
            state.model.params,
            config.model.init,
            tokenizer,
            directory.with_name(outputs.ADAPTER),
        )


def load(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[transformer.CausalLM, learning_lib.Learning, inputs.Tokenizer]:
    """The model to start from: config.model.init, or a fresh one without it."""
    lora = learning_lib.settings(config.model, 'model')
    tokenizer = tokenizer_of(config)
    model = model_of(config, tokenizer)
    inputs.check_tokenizer(tokenizer, model.config, 'config.model')
    inputs.check_length(model.config, config.max_length, 'max_length')
    if config.model.init:
        more = inputs.new_tokens(config.model, 'model', tokenizer, tell=True)
        _, params = loading.causal_lm(
            mesh, config.model, 'model', frozen=lora.rank > 0, **more
        )
    else:
        params = loading.init_params(mesh, model, jax.random.key(config.seed))
    learning = learning_lib.of(lora, 'model', mesh, params, config.seed)
    return model, learning, tokenizer


def tokenizer_of(config: ml_collections.ConfigDict) -> inputs.Tokenizer:
    """That of the model to start from, or the one that a fresh model gets."""
    if config.model.init:
        return inputs.load_tokenizer(
            'model.init', config.model.init, config.data.template
        )
    return tokenizer_lib.load(config.model.tokenizer, config.data.template)


def model_of(
    config: ml_collections.ConfigDict, tokenizer: inputs.Tokenizer
) -> transformer.CausalLM:
    """The language model that is trained, without its parameters."""
    if config.model.init:
        more = inputs.new_tokens(config.model, 'model', tokenizer)
        return loading.causal_lm_of(config.model, 'model', **more)
    return loading.new_causal_lm(config.model, len(tokenizer))
