"""The settings of reinforcement learning, after every check of them."""

import math

from jax.sharding import Mesh
import ml_collections
import optax

from beaver_jax import multiplier
from beaver_jax import sharding
from beaver_jax import watch
from beaver_jax.models import config as model_lib
from beaver_jax.stages import inputs
from beaver_jax.stages import learning
from beaver_jax.stages import rollouts
from beaver_jax.stages import shared_base
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import ppo_config

FORMS = {
    'projected': multiplier.projected_ascent,
    'log': multiplier.log_space_ascent,
}


def check(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[ppo_config.PPOConfig, dict[str, float]]:
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
    inputs.check_max_lengths(config)
    inputs.check_template(config, config.actor.init)
    _check_models(config)
    rows = config.rollout.prompts * config.rollout.samples_per_prompt
    settings = coefficients(config)
    sharding.check_batch(mesh, 'config.rollout.prompts', config.rollout.prompts)
    rollouts.check(config, mesh)
    if config.rollout.pack_sizes < 0:
        raise inputs.InputError(
            f'config.rollout.pack_sizes={config.rollout.pack_sizes}; use 0 for no '
            'packs, or how many sizes they may have.'
        )
    inputs.check_parts('rollout.chunks', rows, config.rollout.chunks, mesh)
    inputs.check_parts('ppo.minibatches', rows, settings.minibatches, mesh)
    inputs.check_parts('ppo.parts', rows // settings.minibatches, settings.parts, mesh)
    for name in ('actor_optimizer', 'critic_optimizer'):
        stage_lib.optimizer(config, name, config.iterations)
    multiplier_optimizer(config.multiplier)
    inputs.settings(watch.Bounds, 'watch', config.watch)
    thresholds = {}
    for name, cost in config.costs.items():
        if cost.threshold is not None:
            thresholds[name] = _check_constraint(name, cost, config.multiplier)
    return settings, thresholds


def _check_models(config: ml_collections.ConfigDict) -> None:
    """Refuses types, adapters and bits that the models cannot have."""
    for name in ('actor', 'critic'):
        learning.settings(config[name], name)
    shared_base.check_settings(config)
    over_actor = {'critic', *inputs.scorers(config)} if config.share_base else set()
    if config.actor.lora.rank and config.reference.init == config.actor.init:
        over_actor.add('reference')
    for name, section in inputs.sections(config).items():
        inputs.compute(section, name)
        learns = name in ('actor', 'critic') and not section.lora.rank
        inputs.check_quantize(section, name, learns=learns)
        if name in over_actor and section.quantize != 'none':
            raise inputs.InputError(
                f'config.{name}.quantize={section.quantize!r}, but its model is the '
                'one that config.actor stands on; set --config.actor.quantize instead.'
            )


def coefficients(config: ml_collections.ConfigDict) -> ppo_config.PPOConfig:
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
        ppo_config.PPOConfig,
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
    if not 0 <= start <= top or start == math.inf:
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
        # λ without a bound is what the paper has.
        if not (least <= value < math.inf or (name == 'max' and value == math.inf)):
            raise inputs.InputError(
                f'config.multiplier.{name}={value}; use a number from {least}.'
            )
    chain = optax.chain(
        multiplier.delay(section.delay),
        optax.scale(section.learning_rate),
        FORMS[section.form](section.max),
    )
    # λ waits until a non-finite cost has left the window.
    return optax.apply_if_finite(chain, 2**31 - 1)


def check_lengths(
    config: ml_collections.ConfigDict,
    model_config: model_lib.TransformerConfig,
    name: str = 'actor',
) -> None:
    """Refuses prompts and responses that together are too long for a policy."""
    lengths = config.max_prompt_length, config.max_response_length
    if sum(lengths) > model_config.max_positions:
        raise inputs.InputError(
            f'config.max_prompt_length={lengths[0]} and config.max_response_length='
            f'{lengths[1]} are together more than the {model_config.max_positions} '
            f'positions of {name}; lower them.'
        )
