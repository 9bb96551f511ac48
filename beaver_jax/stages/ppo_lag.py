"""The stages of reinforcement learning: PPO, PPO-Lagrangian, reward shaping.

One builder: a cost with a threshold is a constraint, a cost with a shaping coefficient
is subtracted from the reward, and without costs it is PPO.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import compilation
from beaver_jax import layout
from beaver_jax import watch
from beaver_jax.data import batches
from beaver_jax.data import sources
from beaver_jax.rollout import experience
from beaver_jax.stages import bridge
from beaver_jax.stages import inputs
from beaver_jax.stages import iteration
from beaver_jax.stages import offload
from beaver_jax.stages import outputs
from beaver_jax.stages import packed
from beaver_jax.stages import ppo_models
from beaver_jax.stages import ppo_settings
from beaver_jax.stages import records
from beaver_jax.stages import rollouts
from beaver_jax.stages import sft
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import ppo_lag


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> stage_lib.Stage:
    """Builds models, data and step of `configs/ppo_lag.py` and its settings."""
    settings, thresholds = ppo_settings.check(config, mesh)
    if config.offload:
        offload.check()
    tokenizer = inputs.load_tokenizer(
        'actor.init', config.actor.init, config.data.template
    )
    prompts, supervised = rows(config)
    feed = _feed(config, mesh, tokenizer, prompts, supervised)
    counts = records.log_counts(
        config, prompts.counts, 'rollout.prompts', 'max_prompt_length'
    )
    readers = bridge.readers(config, tokenizer)
    bridge.announce(readers, 'the actor')
    loaded = ppo_models.load(config, mesh, tokenizer, tuple(thresholds))
    updates = config.iterations * settings.updates
    actor_optimizer, actor_rate = stage_lib.optimizer(
        config, 'actor_optimizer', updates
    )
    critic_optimizer, critic_rate = stage_lib.optimizer(
        config, 'critic_optimizer', updates
    )
    optimizers = ppo_lag.Optimizers(
        actor_optimizer,
        critic_optimizer,
        ppo_settings.multiplier_optimizer(config.multiplier) if thresholds else None,
    )
    init = functools.partial(
        ppo_lag.init,
        optimizers=optimizers,
        multipliers={name: config.costs[name].multiplier_init for name in thresholds},
        costs=tuple(loaded.scorers.constraints),
        window=config.multiplier.window,
    )
    state = stage_lib.born_sharded(mesh, init, loaded.learning())

    def learn(state, batch_and_bases, key):
        batch, bases = batch_and_bases
        return ppo_lag.ppo_lag_step(
            state,
            batch,
            key,
            networks=loaded.over(bases),
            optimizers=optimizers,
            config=settings,
            thresholds=thresholds,
        )

    compiled = compilation.Program(stage_lib.compile_step(mesh, learn, state))
    if config.offload:
        loaded, state = offload.park_models(loaded), offload.park(state)

    def by_iteration(rate: Callable[[Any], Any]) -> Callable[[int], Any]:
        return lambda step: rate(step * settings.updates)

    rates = {
        'train/actor_lr': by_iteration(actor_rate),
        'train/reward_critic_lr': by_iteration(critic_rate),
    }
    if thresholds:
        rates['train/cost_critic_lr'] = by_iteration(critic_rate)
    step = iteration.Iteration(
        rollouts.make(config, mesh, loaded.actor, loaded.networks.actor, tokenizer),
        compilation.Program(scoring_fn(config, loaded, values=settings.updates > 1)),
        compiled,
        bridge.make(
            mesh,
            tokenizer,
            prompts.train,
            readers,
            max_prompt_length=config.max_prompt_length,
        ),
        functools.partial(bridge.shapes, mesh, readers),
        packed.Packer(config, mesh, settings),
        loaded.frozen,
        loaded.bases(),
        config.offload,
    )
    count = config.rollout.prompts * config.rollout.samples_per_prompt
    return stage_lib.Stage(
        state=state,
        step=step,
        compile=step.compile,
        pace=functools.partial(pace, count),
        feed=feed,
        steps=config.iterations,
        evaluate=lambda state: {},
        export=functools.partial(_export, config, mesh, loaded, tokenizer),
        rates=rates,
        headline=layout.HEADLINES[config.stage],
        data=counts,
        card=prompts.card,
        summarize=functools.partial(summarize, config, thresholds),
        bases=ppo_models.fingerprints(config, tokenizer, tuple(thresholds)),
        bounds=inputs.settings(watch.Bounds, 'watch', config.watch),
    )


def summarize(
    config: ml_collections.ConfigDict,
    thresholds: Mapping[str, float],
    rows: list[dict[str, float]],
) -> dict[str, Any]:
    """The thresholds, and where each λ began, peaked and ended."""
    if not thresholds:
        return {}
    multipliers = {}
    for name in thresholds:
        series = [row[f'train/lambda/{name}'] for row in rows]
        start = config.costs[name].multiplier_init
        multipliers[name] = {
            'init': start,
            'max': max([start, *series]),
            'final': series[-1],
        }
    return {'multiplier': multipliers, 'thresholds': dict(thresholds)}


def _export(config, mesh, loaded, tokenizer, state, directory) -> None:
    model, params = loaded.networks.actor, state.actor.params
    folded = loaded.actor.folded(mesh, params)
    outputs.export_causal_lm(model, folded, tokenizer, directory)
    if loaded.actor.lora.rank:
        outputs.export_adapter(
            model.config,
            loaded.actor.lora,
            params,
            config.actor.init,
            tokenizer,
            directory.with_name(outputs.ADAPTER),
        )


def scoring_fn(
    config: ml_collections.ConfigDict, loaded: ppo_models.Loaded, *, values: bool
) -> jax.stages.Wrapped:
    """Compiled `experience.score_samples`: (params, bases, samples, views)."""

    def score_samples(params, bases, samples, views):
        critics = {
            'reward_critic': loaded.reward_critic.overlay(
                bases['reward_critic'], params['reward_critic']
            ),
            'cost_critics': {
                name: one.overlay(
                    bases['cost_critics'][name], params['cost_critics'][name]
                )
                for name, one in loaded.cost_critics.items()
            },
        }
        return experience.score_samples(
            params | critics,
            samples,
            scorers=loaded.scorers,
            temperature=config.rollout.temperature,
            values=values,
            chunks=config.rollout.chunks,
            views=views,
        )

    return jax.jit(score_samples)


def pace(
    rows: int, metrics: Mapping[str, float], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Generated tokens a second, over the whole step."""
    tokens = metrics['train/mean_generated_length'] * rows
    return {'tokens_per_second': tokens / seconds['time/step']}


def _feed(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    prompts: records.Found,
    supervised: Sequence[sources.Demonstration],
) -> stage_lib.Feed:
    """Prompts, and as many supervised rows as samples where there are any."""
    shared = {
        'seed': config.seed,
        'shard': inputs.process_shard(mesh),
        'workers': config.data.workers,
    }
    datasets = {
        'prompts': batches.prompts(
            prompts.train,
            tokenizer,
            max_prompt_length=config.max_prompt_length,
            batch_size=config.rollout.prompts,
            **prompts.noted(),
            **shared,
        )
    }
    if supervised:
        datasets['ptx'] = batches.sft(
            supervised,
            tokenizer,
            max_length=config.max_prompt_length + config.max_response_length,
            batch_size=config.rollout.prompts * config.rollout.samples_per_prompt,
            **shared,
        )
    return stage_lib.Feed(mesh, datasets)


def rows(
    config: ml_collections.ConfigDict,
) -> tuple[records.Found, Sequence[sources.Demonstration]]:
    """Prompts to answer, and, where PTX has a weight, supervised rows."""
    read = functools.partial(sources.prompts, on_bad_row=config.data.on_bad_row)
    prompts = records.train_and_test(read, config, 'prompts')
    if not config.ppo.ptx_coeff > 0:
        return prompts, []
    # Without the rows that SFT held out; their counts are in its summary.
    return prompts, sft.rows(config).train
