"""The training loop finds the exact constrained optimum of a small random world.

Rollouts, critics, the clipped objective and the multipliers all take part; the trained
policy is then judged by enumeration, without sampling noise. `--oracle-seed N` draws
another world.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from beaver_jax import multiplier
from beaver_jax import optim
from beaver_jax.models import config as config_lib
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.rollout import experience as experience_lib
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag
from tests import compiling
from tests import oracle

NAMES = ('harm', 'bias')
ITERATIONS, ROWS, MINIBATCHES = 250, 512, 8
# λ of GAE well below 1: with critics that do not learn, the policy ends elsewhere.
PPO = ppo_config.PPOConfig(
    kl_coeff=oracle.KL_COEFF,
    gae_lambda=0.8,
    minibatches=MINIBATCHES,
    per_token_mean=True,
)
CRITIC = score.ScoreModel(config_lib.ScoreConfig(oracle.MODEL, score_type='critic'))
ACTOR = transformer.CausalLM(oracle.MODEL)
# A form and its peak rate. In log space λ moves by λ² times the rate, so that an
# inactive multiplier needs the larger one: 1/λ grows by rate·(d - Ĉ) per iteration.
FORMS = {
    'projected': (multiplier.projected_ascent, 0.4),
    'log_space': (multiplier.log_space_ascent, 0.6),
}
# With a slack of 0.6 at least and a mean rate of 0.3, 1/λ ends near or above
# 1/0.4 + 250·0.3·0.6 = 47.5, λ below 0.021; the bound leaves room for noise and for
# the costs of the first policies.
LOG_SPACE_ZERO = 0.03


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """The functions of PPO-Lagrangian on a world with some constraints."""

    thresholds: Mapping[str, float]
    networks: ppo_lag.Networks
    optimizers: ppo_lag.Optimizers
    scorers: experience_lib.Scorers


def _place(tokens):
    """The row of a sequence in a table: its tokens [..., T], read as a number."""
    powers = oracle.VOCAB_SIZE ** np.arange(tokens.shape[-1], dtype=np.int32)
    return tokens @ powers


def make_table(scores: np.ndarray) -> jax.Array:
    """Scores [X, Y, outputs] as a table for `lookup`."""
    tokens, _ = oracle.sequences()
    size = oracle.VOCAB_SIZE ** tokens.shape[-1]
    table = np.full((size, scores.shape[-1]), np.nan, np.float32)
    table[_place(tokens)] = scores
    return jnp.array(table)


def lookup(table: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """A score function: [B, outputs] of tokens [B, T]; NaN if not enumerated."""
    del mask
    return table[_place(tokens)]


def _ascent(
    form: Callable[..., optax.GradientTransformation], rate: float
) -> optax.GradientTransformation:
    # λ warms up more slowly than the actor, which must follow it.
    rates = optax.warmup_cosine_decay_schedule(0.0, rate, 25, ITERATIONS)
    return optax.chain(optax.scale_by_schedule(rates), form(max_value=5.0))


def one_of(
    transforms: Sequence[optax.GradientTransformation], which: jax.Array | int
) -> optax.GradientTransformation:
    """The transform of this number, which may be known only when the program runs."""

    def update(updates, state, params=None):
        branches = [transform.update for transform in transforms]
        return jax.lax.switch(which, branches, updates, state, params)

    return optax.GradientTransformation(transforms[0].init, update)


def make_algorithm(form: jax.Array | int, count: int) -> Algorithm:
    """Puts the library's parts together for `count` constraints and a form's number."""
    names = NAMES[:count]
    networks = ppo_lag.Networks(ACTOR, CRITIC, dict.fromkeys(names, CRITIC))
    optimizers = ppo_lag.Optimizers(
        actor=_adam(2e-3, warmup_ratio=0.04),
        critic=_adam(2e-3, warmup_ratio=0.01),
        multiplier=one_of([_ascent(*each) for each in FORMS.values()], form),
    )
    scorers = experience_lib.Scorers(
        reference=ACTOR,
        reward=lookup,
        costs={'table': lookup},
        constraints={
            name: experience_lib.Cost('table', output)
            for output, name in enumerate(names)
        },
        reward_critic=CRITIC,
        cost_critics=networks.cost_critics,
    )
    thresholds = dict(zip(NAMES, oracle.THRESHOLDS[:count], strict=False))
    return Algorithm(thresholds, networks, optimizers, scorers)


def _adam(rate: float, *, warmup_ratio: float) -> optax.GradientTransformation:
    # Linear, while λ's rate falls as a cosine: the policy must still follow λ when λ
    # has nearly come to rest.
    config = optim.OptimizerConfig(
        rate, schedule='linear', warmup_ratio=warmup_ratio, b2=0.99
    )
    return optim.make_optimizer(config, ITERATIONS * MINIBATCHES)


def init_state(algorithm: Algorithm, reference: Any, key: jax.Array):
    """The actor begins as the reference, the critics at random."""
    names = tuple(algorithm.thresholds)
    tokens, mask = (jnp.array(x[:, 0]) for x in oracle.sequences())
    reward_critic, *cost_critics = (
        CRITIC.init(key, tokens, mask)['params']
        for key in jax.random.split(key, 1 + len(names))
    )
    params = {
        'actor': reference,
        'reward_critic': reward_critic,
        'cost_critics': dict(zip(names, cost_critics, strict=True)),
    }
    return ppo_lag.init(
        params,
        algorithm.optimizers,
        multipliers=dict.fromkeys(names, oracle.INITIAL_MULTIPLIER),
        costs=names,
        window=2 * ROWS,
    )


def iterate(state, key, *, fixed: Mapping[str, Any], algorithm: Algorithm):
    """One iteration: rollout, experience, update."""
    rollout_key, update_key = jax.random.split(key)
    samples = generate.generate(
        state.actor.params,
        oracle.prompts(),
        rollout_key,
        model=ACTOR,
        response_length=oracle.RESPONSE_LENGTH,
        sampler=sampling.Sampler(),
        eos_ids=(oracle.EOS_ID,),
        pad_id=oracle.PAD_ID,
        samples_per_prompt=ROWS // len(oracle.PROMPTS),
    )
    critics = {
        'reward_critic': state.reward_critic.params,
        'cost_critics': {n: c.params for n, c in state.cost_critics.items()},
    }
    experience = experience_lib.score_samples(
        {**fixed, **critics}, samples, scorers=algorithm.scorers, temperature=1.0
    )
    return ppo_lag.ppo_lag_step(
        state,
        (experience, None),
        update_key,
        networks=algorithm.networks,
        optimizers=algorithm.optimizers,
        config=PPO,
        thresholds=algorithm.thresholds,
    )


@functools.cache
def training(count: int) -> Callable:
    """The whole run, compiled once for all worlds and forms."""

    # Here it is the run that takes time.
    @functools.partial(jax.jit, compiler_options=compiling.AS_USERS_DO)
    def train(state, keys, fixed, form):
        algorithm = make_algorithm(form, count)
        body = functools.partial(iterate, fixed=fixed, algorithm=algorithm)
        return jax.lax.scan(body, state, keys)[0]

    return train


def run(world: oracle.World, form: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Trains from the reference; returns the policy [X, Y] and λ [K]."""
    count, number = world.costs.shape[-1], list(FORMS).index(form)
    algorithm = make_algorithm(number, count)
    init_key, train_key = jax.random.split(jax.random.key(seed))
    state = init_state(algorithm, world.reference, init_key)
    fixed = {
        'reference': world.reference,
        'reward': make_table(world.reward[..., None]),
        'costs': {'table': make_table(world.costs)},
    }
    keys = jax.random.split(train_key, ITERATIONS)
    state = training(count)(state, keys, fixed, jnp.int32(number))
    policy = np.exp(oracle.log_policy(state.actor.params))
    found = [state.multiplier.params[name] for name in algorithm.thresholds]
    return policy, np.array(found, np.float64)


def test_every_response_is_enumerated_once(oracle_seed):
    # Of 5 tokens one is EOS. Ended at the first: 1, at the second: 4, at the third or
    # cut there: 4·4·5 = 80.
    assert len(oracle.responses()) == 1 + 4 + 80
    world = oracle.make_world(oracle_seed, active=(True,))
    total = np.sum(np.exp(world.log_reference), axis=1)
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_closed_form_beats_any_policy_by_its_divergence(oracle_seed):
    """J(π*) - J(π) = κ·KL(π‖π*), J = E[(R - Σλ·C)/(1 + Σλ)] - κ·KL(π‖π_ref)."""
    world = oracle.make_world(oracle_seed, active=(True, True))
    scores = oracle.lagrangian_score(world, world.multipliers)

    def kl(policy, log_other):
        return oracle.expectation(policy, np.log(policy) - log_other)

    def objective(policy):
        gain = oracle.expectation(policy, scores)
        return gain - oracle.KL_COEFF * kl(policy, world.log_reference)

    best = oracle.optimum(world, world.multipliers)
    rng = np.random.default_rng(oracle_seed)
    other = rng.dirichlet(np.ones(best.shape[1]), best.shape[0])
    np.testing.assert_allclose(
        objective(best) - objective(other),
        oracle.KL_COEFF * kl(other, np.log(best)),
        rtol=1e-4,  # the reference comes from float32, and is normalized to that
    )


@pytest.mark.parametrize('active', [(True,), (True, False), (True, True)])
def test_multipliers_of_the_thresholds_are_those_drawn(oracle_seed, active):
    world = oracle.make_world(oracle_seed, active=active)
    solved = oracle.solve_multipliers(world)
    np.testing.assert_allclose(solved, world.multipliers, atol=1e-4)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('active', [(True,), (True, False), (True, True)])
def test_training_finds_the_constrained_optimum(oracle_seed, active, form):
    world = oracle.make_world(oracle_seed, active=active)
    policy, found = run(world, form, oracle_seed)
    reference = np.exp(world.log_reference)
    free = oracle.optimum(world, np.zeros_like(found))
    best = oracle.optimum(world, world.multipliers)
    reward, highest, lowest, exact = (
        oracle.expectation(p, world.reward) for p in (policy, free, reference, best)
    )
    costs = oracle.expectation(policy, world.costs)
    where = np.array(active)
    violation = costs - oracle.THRESHOLDS[: len(active)]
    assert abs(reward - exact) <= 0.03 * (highest - lowest)
    np.testing.assert_allclose(violation[where], 0, atol=0.03)
    np.testing.assert_allclose(found[where], world.multipliers[where], rtol=0.1)
    if form == 'projected':
        np.testing.assert_array_equal(found[~where], 0)
    else:
        np.testing.assert_array_less(found[~where], LOG_SPACE_ZERO)
