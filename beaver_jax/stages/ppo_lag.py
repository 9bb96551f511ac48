"""The stages of reinforcement learning: PPO, PPO-Lagrangian, reward shaping.

One builder: a cost with a threshold is a constraint, a cost with a shaping coefficient
is subtracted from the reward, and without costs it is PPO.
"""

from collections import Counter
from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import optax

from beaver_jax import multiplier
from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax.data import batches
from beaver_jax.data import sources
from beaver_jax.models import config as model_lib
from beaver_jax.models import score
from beaver_jax.rollout import experience
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.stages import inputs
from beaver_jax.stages import outputs
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import ppo_lag

FORMS = {
    'projected': multiplier.projected_ascent,
    'log': multiplier.log_space_ascent,
}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """All models of a run: what learns, what scores, and the frozen parameters."""

    networks: ppo_lag.Networks
    scorers: experience.Scorers
    learning: Mapping[str, Any]  # parameters: 'actor', 'reward_critic', 'cost_critics'
    frozen: Mapping[str, Any]  # parameters: 'reference', 'reward', 'costs'


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> stage_lib.Stage:
    """Builds models, data and step of `configs/ppo_lag.py` and its settings."""
    settings, thresholds = check(config, mesh)
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    feed, counts = _feed(config, mesh, tokenizer, settings)
    loaded = load(config, mesh, tokenizer, tuple(thresholds))
    updates = config.iterations * settings.epochs * settings.minibatches
    actor_optimizer, actor_rate = stage_lib.optimizer(
        config, 'actor_optimizer', updates
    )
    critic_optimizer, critic_rate = stage_lib.optimizer(
        config, 'critic_optimizer', updates
    )
    optimizers = ppo_lag.Optimizers(
        actor_optimizer,
        critic_optimizer,
        multiplier_optimizer(config.multiplier) if thresholds else None,
    )
    init = functools.partial(
        ppo_lag.init,
        optimizers=optimizers,
        multipliers={name: config.costs[name].multiplier_init for name in thresholds},
        costs=tuple(loaded.scorers.constraints),
        window=config.multiplier.window,
    )
    state = stage_lib.born_sharded(mesh, init, dict(loaded.learning))
    learn = functools.partial(
        ppo_lag.ppo_lag_step,
        networks=loaded.networks,
        optimizers=optimizers,
        config=settings,
        thresholds=thresholds,
    )

    def by_iteration(rate: Callable[[Any], Any]) -> Callable[[int], Any]:
        return lambda step: rate(step * settings.epochs * settings.minibatches)

    rates = {
        'train/actor_lr': by_iteration(actor_rate),
        'train/reward_critic_lr': by_iteration(critic_rate),
    }
    if thresholds:
        rates['train/cost_critic_lr'] = by_iteration(critic_rate)
    return stage_lib.Stage(
        state=state,
        step=iteration(
            rollout_fn(config, loaded, tokenizer),
            scoring_fn(config, loaded),
            stage_lib.compile_step(mesh, learn, state),
            loaded.frozen,
        ),
        feed=feed,
        steps=config.iterations,
        evaluate=lambda state: {},
        export=lambda state, directory: outputs.export_causal_lm(
            loaded.networks.actor, state.actor.params, tokenizer, directory
        ),
        rates=rates,
        headline=('train/reward', 'train/cost', 'train/lambda', 'train/kl_divergence'),
        data=counts,
        summarize=functools.partial(summarize, config, thresholds),
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


def check(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[ppo_lag.PPOConfig, dict[str, float]]:
    """The coefficients and the thresholds by constraint, after every check of them.

    Raises:
      InputError: Sizes or multipliers that do not fit together.
    """
    inputs.check_counts(
        config,
        'iterations',
        'max_prompt_length',
        'max_response_length',
        'rollout.samples_per_prompt',
    )
    for name in ('actor', 'reference', 'reward', 'critic'):
        inputs.compute(config[name], name)
    rows = config.rollout.prompts * config.rollout.samples_per_prompt
    settings = ppo_settings(config)
    sharding.check_batch(mesh, 'config.rollout.prompts', config.rollout.prompts)
    inputs.check_parts('rollout.chunks', rows, config.rollout.chunks, mesh)
    inputs.check_parts('ppo.minibatches', rows, settings.minibatches, mesh)
    inputs.check_parts('ppo.parts', rows // settings.minibatches, settings.parts, mesh)
    for name in ('actor_optimizer', 'critic_optimizer'):
        stage_lib.optimizer(config, name, config.iterations)
    multiplier_optimizer(config.multiplier)
    thresholds = {}
    for name, cost in config.costs.items():
        inputs.compute(cost, f'costs.{name}')
        if cost.threshold is not None:
            thresholds[name] = _check_constraint(name, cost, config.multiplier)
    return settings, thresholds


def ppo_settings(config: ml_collections.ConfigDict) -> ppo_lag.PPOConfig:
    """The coefficients of the update, with those of shaping and the temperature.

    Raises:
      InputError: A value out of range.
    """
    temperature = config.rollout.temperature
    if not 0 < temperature < math.inf:
        raise inputs.InputError(
            f'config.rollout.temperature={temperature}; must be above 0 and finite.'
        )
    shaping = {
        name: float(cost.shaping)
        for name, cost in config.costs.items()
        if cost.shaping is not None
    }
    for name, coefficient in shaping.items():
        if not 0 <= coefficient < math.inf:
            raise inputs.InputError(
                f'config.costs.{name}.shaping={coefficient}; must not be negative '
                'and must be finite.'
            )
    return inputs.settings(
        ppo_lag.PPOConfig,
        'ppo',
        config.ppo,
        temperature=temperature,
        shaping=shaping,
    )


def _check_constraint(name: str, cost, multiplier_config) -> float:
    """The threshold of a constraint whose λ can start where it is told to."""
    where = f'config.costs.{name}'
    try:
        threshold = float(cost.threshold)
    except (TypeError, ValueError):
        threshold = math.nan
    if not math.isfinite(threshold):
        raise inputs.InputError(
            f'{where}.threshold={cost.threshold!r} is no finite number; use one in the '
            "cost model's units."
        )
    start, top = cost.multiplier_init, multiplier_config.max
    if cost.shaping is not None:
        raise inputs.InputError(
            f'{where} has a threshold and a shaping coefficient; a cost has one or the '
            'other.'
        )
    if not start >= 0 or (top is not None and start > top):
        raise inputs.InputError(
            f'{where}.multiplier_init={start} is not between 0 and '
            f'config.multiplier.max={top}.'
        )
    if multiplier_config.form == 'log' and not start > 0:
        raise inputs.InputError(
            f'{where}.multiplier_init={start}: in log space λ = 0 stays 0 forever; '
            'use a positive start, or config.multiplier.form=projected.'
        )
    return threshold


def multiplier_optimizer(
    section: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
    """The chain that moves λ, from the config section `multiplier`."""
    if section.form not in FORMS:
        raise inputs.InputError(
            f'config.multiplier.form={section.form!r}; known: {", ".join(FORMS)}.'
        )
    for name, least in (('learning_rate', 0), ('max', 0), ('delay', 0), ('window', 1)):
        value = section[name]
        if value is not None and not least <= value < math.inf:
            raise inputs.InputError(
                f'config.multiplier.{name}={value}; use a finite number from {least}.'
            )
    chain = optax.chain(
        multiplier.delay(section.delay),
        optax.scale(section.learning_rate),
        FORMS[section.form](section.max),
    )
    # λ waits until a non-finite cost has left the window.
    return optax.apply_if_finite(chain, 2**31 - 1)


def load(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    constraints: tuple[str, ...],
) -> Loaded:
    """Loads actor, reference, reward and cost models, and critics from the latter."""
    inputs.check_same_tokenizer(tokenizer, 'reward.init', config.reward.init)
    actor, actor_params = inputs.causal_lm(mesh, config.actor, 'actor')
    inputs.check_tokenizer(tokenizer, actor.config, 'config.actor')
    check_lengths(config, actor.config)
    reference, reference_params = inputs.causal_lm(
        mesh, config.reference, 'reference', frozen=True
    )
    reward_fn, reward_params = scorer(config.reward, mesh, 'reward')
    cost_fns, cost_params, costs = {}, {}, {}
    for name, cost in config.costs.items():
        inputs.check_same_tokenizer(tokenizer, f'costs.{name}.init', cost.init)
        cost_fns[name], cost_params[name] = scorer(cost, mesh, f'costs.{name}')
        costs[name] = experience.Cost(name, cost.output)
    reward_critic, reward_critic_params = critic(config, config.reward, mesh, 'reward')
    cost_critics, cost_critic_params = {}, {}
    for name in constraints:
        cost_critics[name], cost_critic_params[name] = critic(
            config, config.costs[name], mesh, f'costs.{name}'
        )
    return Loaded(
        networks=ppo_lag.Networks(actor, reward_critic, cost_critics),
        scorers=experience.Scorers(
            reference, reward_fn, cost_fns, costs, reward_critic, cost_critics
        ),
        learning={
            'actor': actor_params,
            'reward_critic': reward_critic_params,
            'cost_critics': cost_critic_params,
        },
        frozen={
            'reference': reference_params,
            'reward': reward_params,
            'costs': cost_params,
        },
    )


def check_lengths(
    config: ml_collections.ConfigDict, model_config: model_lib.TransformerConfig
) -> None:
    """Refuses prompts and responses that together are too long for a policy."""
    length = config.max_prompt_length + config.max_response_length
    name = 'max_prompt_length + config.max_response_length'
    inputs.check_length(model_config, length, name)


def scorer(
    section: ml_collections.ConfigDict, mesh: Mesh, name: str
) -> tuple[experience.ScoreFn, Any]:
    """A frozen reward or cost model as a function, and its parameters."""
    model, params, normalizer = inputs.score_model(mesh, section, name, frozen=True)
    # Its use decides how it is normalized, not what config.json calls it.
    kind = 'reward' if name == 'reward' else 'cost'
    model = score.ScoreModel(dataclasses.replace(model.config, score_type=kind))
    if not 0 <= section.output < model.config.score_dim:
        raise inputs.InputError(
            f'config.{name}.output={section.output}: the model has outputs 0 to '
            f'{model.config.score_dim - 1}.'
        )

    def end_scores(params, tokens, mask):
        return scoring.end_scores(
            model,
            params['model'],
            params['normalizer'],
            tokens,
            mask,
            normalize=section.normalize,
        )

    return end_scores, {'model': params, 'normalizer': normalizer}


def critic(
    config: ml_collections.ConfigDict,
    section: ml_collections.ConfigDict,
    mesh: Mesh,
    name: str,
) -> tuple[score.ScoreModel, Any]:
    """A critic that starts from the score model whose values it learns."""
    settings = ml_collections.ConfigDict(config.critic.to_dict())
    settings.init = section.init
    model, params, _ = inputs.score_model(mesh, settings, name)
    columns = slice(section.output, section.output + 1)
    head = jax.tree.map(lambda x: x[..., columns], params['score_head'])
    model_config = dataclasses.replace(
        model.config, score_type='critic', score_dim=1, normalize=False
    )
    return score.ScoreModel(model_config), params | {'score_head': head}


def rollout_fn(
    config: ml_collections.ConfigDict, loaded: Loaded, tokenizer: inputs.Tokenizer
) -> Callable[..., Any]:
    """Compiled (params, prompts, key) to samples."""

    def rollout(params, prompts, key):
        # Random numbers by place, not by row of the data set: a batch that spans two
        # epochs may hold a row twice.
        prompts = prompts.replace(row=jnp.arange(prompts.row.shape[0]))
        return generate.generate(
            params,
            prompts,
            key,
            model=loaded.networks.actor,
            response_length=config.max_response_length,
            sampler=sampling.Sampler(temperature=config.rollout.temperature),
            eos_ids=(tokenizer.eos_token_id,),
            pad_id=tokenizer.pad_token_id,
            samples_per_prompt=config.rollout.samples_per_prompt,
        )

    return jax.jit(rollout)


def scoring_fn(config: ml_collections.ConfigDict, loaded: Loaded) -> Callable[..., Any]:
    """Compiled (params, samples) to experience."""
    return jax.jit(
        functools.partial(
            experience.score_samples,
            scorers=loaded.scorers,
            temperature=config.rollout.temperature,
            chunks=config.rollout.chunks,
        )
    )


def iteration(
    rollout: Callable[..., Any],
    score_samples: Callable[..., Any],
    learn: Callable[..., Any],
    frozen: Mapping[str, Any],
) -> Callable[..., Any]:
    """One iteration of three compiled programs, each timed."""

    def run(state, batch, key):
        rollout_key, learn_key = jax.random.split(key)
        begin = time.perf_counter()
        samples = rollout(state.actor.params, batch['prompts'], rollout_key)
        jax.block_until_ready(samples)
        sampled = time.perf_counter()
        params = dict(frozen) | {
            'reward_critic': state.reward_critic.params,
            'cost_critics': {n: c.params for n, c in state.cost_critics.items()},
        }
        scored = jax.block_until_ready(score_samples(params, samples))
        experienced = time.perf_counter()
        state, metrics = learn(state, (scored, batch.get('ptx')), learn_key)
        jax.block_until_ready(metrics)
        done = time.perf_counter()
        tokens = float(metrics['train/mean_generated_length']) * scored.reward.shape[0]
        timings = {
            'time/rollout': sampled - begin,
            'time/scoring': experienced - sampled,
            'time/update': done - experienced,
            'tokens_per_second': tokens / (done - begin),
        }
        return state, metrics, timings

    return run


def _feed(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    settings: ppo_lag.PPOConfig,
) -> tuple[stage_lib.Feed, dict[str, int]]:
    """Prompts, and as many supervised rows as samples where PTX has a weight."""
    counts: Counter = Counter()
    read = functools.partial(sources.prompts, on_bad_row=config.data.on_bad_row)
    prompts, _ = inputs.train_and_test(read, config, 'prompts', counts)
    shared = {'seed': config.seed, 'shard': inputs.process_shard()}
    datasets = {
        'prompts': batches.prompts(
            prompts,
            tokenizer,
            max_prompt_length=config.max_prompt_length,
            batch_size=config.rollout.prompts,
            counts=counts,
            **shared,
        )
    }
    if settings.ptx_coeff > 0:
        read_rows = functools.partial(
            sources.demonstrations, on_bad_row=config.data.on_bad_row
        )
        # Without the rows that SFT held out; their counts are in its summary.
        rows, _ = inputs.train_and_test(read_rows, config, 'sft', Counter())
        datasets['ptx'] = batches.sft(
            rows,
            tokenizer,
            max_length=config.max_prompt_length + config.max_response_length,
            batch_size=config.rollout.prompts * config.rollout.samples_per_prompt,
            **shared,
        )
    return stage_lib.Feed(mesh, datasets), inputs.log_counts(config.stage, counts)
