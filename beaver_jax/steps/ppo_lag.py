"""PPO-Lagrangian: one update from one rollout batch.

With no constraint it is PPO; with `shaping` it is PPO on R - Σ λ_k·C_k, reward shaping
with fixed multipliers. Safe RLHF (arXiv 2310.12773), algorithm 1 and appendix B.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from beaver_jax import multiplier as multiplier_lib
from beaver_jax import types
from beaver_jax.losses import ppo
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_losses
from beaver_jax.steps import ppo_metrics
from beaver_jax.steps import ppo_targets
from beaver_jax.steps import sft
from beaver_jax.steps import state as state_lib

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Networks:
    """The models that learn."""

    actor: transformer.CausalLM
    reward_critic: score.ScoreModel
    cost_critics: Mapping[str, score.ScoreModel]  # by constraint


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """What moves them. The multipliers' is None without constraints."""

    actor: optax.GradientTransformation
    critic: optax.GradientTransformation
    multiplier: optax.GradientTransformation | None = None


class PPOLagState(struct.PyTreeNode):
    """State of PPO-Lagrangian: data only, saved and restored as a whole."""

    step: jax.Array  # [] int32, rollout batches learnt
    actor: state_lib.Learner
    reward_critic: state_lib.Learner
    cost_critics: dict[str, state_lib.Learner]  # by constraint
    multiplier: state_lib.Learner  # λ: [] by constraint
    cost_windows: dict[str, multiplier_lib.CostWindow]  # by cost


def init(
    params: Mapping[str, Any],
    optimizers: Optimizers,
    *,
    multipliers: Mapping[str, float],
    costs: tuple[str, ...],
    window: int,
) -> PPOLagState:
    """The state before the first rollout.

    Args:
      params: 'actor', 'reward_critic', 'cost_critics' (by constraint).
      optimizers: What moves them.
      multipliers: λ at the start, by constraint; empty for PPO.
      costs: Names of all costs that are measured.
      window: W, episode costs whose mean is Ĉ.
    """
    lambdas = {name: jnp.float32(value) for name, value in multipliers.items()}
    move = optimizers.multiplier or optax.identity()
    return PPOLagState(
        step=jnp.zeros((), jnp.int32),
        actor=state_lib.init_learner(params['actor'], optimizers.actor),
        reward_critic=state_lib.init_learner(
            params['reward_critic'], optimizers.critic
        ),
        cost_critics={
            name: state_lib.init_learner(
                params['cost_critics'][name], optimizers.critic
            )
            for name in lambdas
        },
        multiplier=state_lib.init_learner(lambdas, move),
        cost_windows={name: multiplier_lib.init_window(window) for name in costs},
    )


def move_multipliers(
    state: PPOLagState,
    costs: Mapping[str, jax.Array],
    thresholds: Mapping[str, float],
    optimizers: Optimizers,
) -> PPOLagState:
    """Costs [B] enter their windows; then λ climbs along Ĉ - d, once per rollout."""
    windows = {
        name: multiplier_lib.push_costs(window, costs[name])
        for name, window in state.cost_windows.items()
    }
    state = state.replace(cost_windows=windows)
    if optimizers.multiplier is None:
        return state
    constrained = {name: windows[name] for name in state.multiplier.params}
    excess = multiplier_lib.excess(constrained, thresholds)
    multiplier = state_lib.apply_gradients(
        state.multiplier, excess, optimizers.multiplier
    )
    return state.replace(multiplier=multiplier)


def actor_gradients(
    params: Any,
    batch: tuple[types.Samples, jax.Array, types.SftBatch | None],
    *,
    model: transformer.CausalLM,
    config: ppo_config.PPOConfig,
) -> tuple[Any, Metrics]:
    """Gradients of the clipped objective, plus ptx_coeff times PTX's where given.

    Of each apart: a part of a batch weighs by its rows in one, by its tokens in the
    other. The batch is (samples, advantages [B, G], supervised rows or None).
    """
    *rows, ptx = batch
    grads, metrics, _ = state_lib.gradients(
        functools.partial(ppo_losses.actor_loss, model=model, config=config),
        params,
        tuple(rows),
        parts=config.parts,
    )
    if ptx is None:
        return grads, metrics
    ptx_grads, found, _ = state_lib.gradients(
        functools.partial(sft.sft_loss, model=model), params, ptx, parts=config.parts
    )
    grads = jax.tree.map(lambda x, y: x + config.ptx_coeff * y, grads, ptx_grads)
    return grads, metrics | {'train/ptx_loss': found['train/loss']}


def update_critics(
    loss: Callable[..., tuple[jax.Array, state_lib.Aux]],
    state: PPOLagState,
    reward_batch: Any,
    cost_batches: Mapping[str, Any],
    *,
    networks: Networks,
    optimizers: Optimizers,
    config: ppo_config.PPOConfig,
) -> tuple[PPOLagState, Metrics, tuple[Any, dict[str, Any]]]:
    """One update of every critic.

    Args:
      loss: `ppo_losses.critic_loss` or `ppo_losses.first_critic_loss`.
      state: Whose critics learn.
      reward_batch: What the loss takes, of the reward.
      cost_batches: The same of the costs, by constraint.
      networks: The models.
      optimizers: What moves them.
      config: Coefficients.

    Returns:
      (state, metrics, the loss's outputs of the reward and by constraint).
    """

    def learn(learner, batch, model):
        grads, found, outputs = state_lib.gradients(
            functools.partial(loss, model=model, config=config),
            learner.params,
            batch,
            parts=config.parts,
        )
        learner = state_lib.apply_gradients(learner, grads, optimizers.critic)
        return learner, found | {'grad_norm': optax.tree.norm(grads)}, outputs

    reward_critic, found, reward_outputs = learn(
        state.reward_critic, reward_batch, networks.reward_critic
    )
    metrics = _critic_metrics('reward', '', found)
    cost_critics, cost_outputs = {}, {}
    for name, learner in state.cost_critics.items():
        cost_critics[name], found, cost_outputs[name] = learn(
            learner, cost_batches[name], networks.cost_critics[name]
        )
        metrics |= _critic_metrics('cost', f'/{name}', found)
    state = state.replace(reward_critic=reward_critic, cost_critics=cost_critics)
    return state, metrics, (reward_outputs, cost_outputs)


def update_minibatch(
    state: PPOLagState,
    batch: tuple[types.Experience, ppo_targets.Targets | None, types.SftBatch | None],
    *,
    networks: Networks,
    optimizers: Optimizers,
    config: ppo_config.PPOConfig,
) -> tuple[PPOLagState, Metrics]:
    """One update of the actor and every critic, under the present λ.

    Without values and targets it is the only one of a rollout batch: the critics' own
    pass over the samples says what their values were before it.
    """
    experience, targets, ptx = batch
    samples = experience.samples
    learn = functools.partial(
        update_critics, networks=networks, optimizers=optimizers, config=config
    )
    if targets is None:
        rewards, costs = ppo_targets.token_rewards(experience, config)
        state, metrics, (reward_values, cost_values) = learn(
            ppo_losses.first_critic_loss,
            state,
            (samples, rewards),
            {name: (samples, stream) for name, stream in costs.items()},
        )
        targets, found = ppo_targets.make_targets(
            experience.replace(reward_values=reward_values, cost_values=cost_values),
            config,
        )
        metrics |= found
    else:
        state, metrics, _ = learn(
            ppo_losses.critic_loss,
            state,
            (samples, experience.reward_values[:, :-1], targets.reward_returns),
            {
                name: (samples, values[:, :-1], targets.cost_returns[name])
                for name, values in experience.cost_values.items()
            },
        )

    advantages = ppo.lagrangian_advantages(
        targets.reward_advantages, targets.cost_advantages, state.multiplier.params
    )
    grads, found = actor_gradients(
        state.actor.params,
        (samples, advantages, ptx),
        model=networks.actor,
        config=config,
    )
    actor = state_lib.apply_gradients(state.actor, grads, optimizers.actor)
    metrics |= found | {'train/actor_grad_norm': optax.tree.norm(grads)}
    return state.replace(actor=actor), metrics


def _critic_metrics(kind, suffix, found) -> Metrics:
    return {
        f'train/{kind}_critic_loss{suffix}': found['loss'],
        f'train/{kind}_value{suffix}': found['value'],
        f'train/{kind}_critic_grad_norm{suffix}': found['grad_norm'],
    }


def ppo_lag_step(
    state: PPOLagState,
    batch: tuple[types.Experience, types.SftBatch | None],
    key: jax.Array,
    *,
    networks: Networks,
    optimizers: Optimizers,
    config: ppo_config.PPOConfig,
    thresholds: Mapping[str, float],
) -> tuple[PPOLagState, Metrics]:
    """Costs enter the windows, λ moves, then the policy learns under the new λ.

    Args:
      state: Donated by the caller.
      batch: Experience of B rows, and B supervised rows for PTX or None. The samples'
        packs, where there are any, are those of `minibatch_orders`, one after another.
        Without the critics' values there is one update, which says them itself.
      key: Shuffles the rows of each epoch.
      networks: The models that learn.
      optimizers: What moves them.
      config: Coefficients. epochs × minibatches updates are made.
      thresholds: d by constraint.

    Returns:
      (state, metrics); metrics of updates are their means but
      `ppo_losses.ROLLOUT_GAP`;
      'train/bad_steps' counts the non-finite updates skipped in a row.
    """
    experience, ptx = batch
    state = move_multipliers(state, experience.costs, thresholds, optimizers)
    packs = experience.samples.packs
    experience = with_packs(experience, None)
    metrics: Metrics = {}
    targets = None
    if experience.reward_values is not None:
        targets, metrics = ppo_targets.make_targets(experience, config)
    elif config.updates > 1:
        raise ValueError(
            f'The experience has no values, and {config.updates} updates (epochs × '
            'minibatches) learn from it: the second would find critics that have '
            'moved. Score the samples with values=True.'
        )
    rows = (experience, targets, ptx)

    def minibatch(state, order_and_packs):
        order, packs = order_and_packs
        experience, targets, ptx = jax.tree.map(lambda x: x[order], rows)
        return update_minibatch(
            state,
            (with_packs(experience, packs), targets, ptx),
            networks=networks,
            optimizers=optimizers,
            config=config,
        )

    orders = minibatch_orders(key, experience.reward.shape[0], config)
    state, updates = jax.lax.scan(minibatch, state, (orders, packs))
    metrics |= jax.tree.map(jnp.mean, updates)
    gap = ppo_losses.ROLLOUT_GAP
    metrics[gap] = updates[gap][0]  # before anything was learnt
    metrics |= ppo_metrics.of_rollout(experience, config)
    metrics |= ppo_metrics.of_multipliers(
        state.multiplier.params, state.cost_windows, thresholds
    )
    learners = (state.actor, state.reward_critic, *state.cost_critics.values())
    metrics['train/bad_steps'] = jnp.max(
        jnp.stack([state_lib.bad_steps(learner) for learner in learners])
    )
    metrics = ppo_metrics.with_plain_names(metrics, tuple(state.cost_windows))
    return state.replace(step=state.step + 1), metrics


def minibatch_orders(
    key: jax.Array, rows: int, config: ppo_config.PPOConfig
) -> jax.Array:
    """The rows of each minibatch, [epochs · minibatches, n] int32."""
    keys = jax.random.split(key, config.epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, rows))(keys)
    return orders.reshape(config.updates, -1)


def with_packs(
    experience: types.Experience, packs: types.Packs | None
) -> types.Experience:
    """With other packs of the samples, or none."""
    return experience.replace(samples=experience.samples.replace(packs=packs))
