"""Random worlds small enough to enumerate, and their exact constrained optimum.

A world has a few prompts, a random reference, and a random reward and costs for every
complete response. For given multipliers the optimum is known in closed form; the
multipliers that meet the thresholds are found by ascent without noise.

Axes: X prompts, Y responses to one prompt, K constraints, T = P + G tokens.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.models import config as config_lib
from beaver_jax.models import transformer

VOCAB_SIZE, PAD_ID, EOS_ID = 5, 0, 1
PROMPT_LENGTH, RESPONSE_LENGTH = 3, 3
# Two tokens differ in each: attention over copies of one token is that token's value,
# however many there are, so that a prompt '2' and its response '2' would look alike.
PROMPTS = ((PAD_ID, 4, 2), (2, 3, 4))  # [X, P]; the first is left padded
KL_COEFF = 0.25
SCORE_STD = 0.7  # of rewards and costs over the responses to a prompt
CONFLICT = 0.6  # correlation of every cost with the reward
THRESHOLDS = (0.3, -0.2)  # d, by constraint
INITIAL_MULTIPLIER = 0.4

MODEL = config_lib.TransformerConfig(
    vocab_size=VOCAB_SIZE,
    embed_dim=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=64,
    max_positions=PROMPT_LENGTH + RESPONSE_LENGTH,
    init_std=0.1,
)


@dataclasses.dataclass(frozen=True)
class World:
    """A constrained problem, and the multipliers that solve it.

    Attributes:
      reference: Parameters of the reference policy.
      log_reference: [X, Y], log π_ref of whole responses.
      reward: [X, Y], R.
      costs: [X, Y, K], C_k.
      multipliers: [K], λ*; 0 where a constraint is inactive.
    """

    reference: Any
    log_reference: np.ndarray
    reward: np.ndarray
    costs: np.ndarray
    multipliers: np.ndarray


def responses() -> np.ndarray:
    """Every complete response, [Y, G]: ended by EOS, then padded, or cut by length."""

    def complete(tokens):
        after = itertools.dropwhile(lambda token: token != EOS_ID, tokens)
        return all(token == PAD_ID for token in list(after)[1:])

    every = itertools.product(range(VOCAB_SIZE), repeat=RESPONSE_LENGTH)
    return np.array([tokens for tokens in every if complete(tokens)], np.int32)


def prompts() -> types.PromptBatch:
    """The prompts, X rows."""
    mask = np.ones((len(PROMPTS), PROMPT_LENGTH), bool)
    mask[0, 0] = False
    return types.PromptBatch(
        tokens=jnp.array(PROMPTS), mask=jnp.array(mask), row=jnp.arange(len(PROMPTS))
    )


def sequences() -> tuple[np.ndarray, np.ndarray]:
    """Tokens [X, Y, T] and mask [X, Y, T] of every prompt with every response."""
    answers, questions = responses(), prompts()
    # Real tokens are those before the EOS and the EOS itself.
    ended = np.cumsum(answers == EOS_ID, axis=1)
    real = (ended == 0) | (answers == EOS_ID)
    shape = (len(PROMPTS), len(answers))

    def join(prompt_part, answer_part):
        first = np.broadcast_to(
            np.asarray(prompt_part)[:, None], (*shape, PROMPT_LENGTH)
        )
        last = np.broadcast_to(answer_part[None], (*shape, RESPONSE_LENGTH))
        return np.concatenate([first, last], axis=-1)

    return join(questions.tokens, answers), join(questions.mask, real)


def log_policy(params: Any) -> np.ndarray:
    """log π of every response under a model's parameters, [X, Y] float64."""
    tokens, mask = sequences()
    rows = (-1, tokens.shape[-1])
    logps, _ = scoring.response_logps(
        transformer.CausalLM(MODEL),
        params,
        jnp.array(tokens.reshape(rows)),
        jnp.array(mask.reshape(rows)),
        response_length=RESPONSE_LENGTH,
    )
    by_token = np.asarray(logps, np.float64).reshape(*mask.shape[:2], RESPONSE_LENGTH)
    return np.sum(by_token, axis=-1, where=mask[..., PROMPT_LENGTH:])


def expectation(policy: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """E[scores] with prompts equally likely: [X, Y] and [X, Y, …] to […]."""
    return np.mean(np.einsum('XY,XY...->X...', policy, scores), axis=0)


def lagrangian_score(world: World, multipliers: np.ndarray) -> np.ndarray:
    """(R - Σ λ_k·C_k) / (1 + Σ λ_k), [X, Y]."""
    return (world.reward - world.costs @ multipliers) / (1 + np.sum(multipliers))


def optimum(world: World, multipliers: np.ndarray) -> np.ndarray:
    """π*_λ ∝ π_ref·exp((R - Σ λ_k·C_k) / (κ·(1 + Σ λ_k))), [X, Y]."""
    logits = world.log_reference + lagrangian_score(world, multipliers) / KL_COEFF
    weights = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    return weights / np.sum(weights, axis=1, keepdims=True)


def solve_multipliers(
    world: World, *, rate: float = 0.5, steps: int = 1000
) -> np.ndarray:
    """λ*, [K]: λ ← max(0, λ + rate·(E[C] - d)) under π*_λ, from λ = 0."""
    multipliers = np.zeros(world.costs.shape[-1])
    thresholds = np.array(THRESHOLDS[: len(multipliers)])
    for _ in range(steps):
        costs = expectation(optimum(world, multipliers), world.costs)
        multipliers = np.maximum(multipliers + rate * (costs - thresholds), 0)
    return multipliers


def make_world(seed: int, *, active: tuple[bool, ...]) -> World:
    """Draws a world whose constraints are active or inactive, as told.

    λ* is drawn first; then each cost is shifted, which changes no policy, so that under
    the optimum its mean is its threshold, or well below it for an inactive constraint.

    Args:
      seed: Of everything random.
      active: By constraint, at least one True.
    """
    rng = np.random.default_rng(seed)
    tokens, mask = (jnp.array(x[:, 0]) for x in sequences())
    model = transformer.CausalLM(MODEL)
    reference = model.init(jax.random.key(seed), tokens, mask)['params']
    log_reference = log_policy(reference)
    noise = rng.standard_normal((*log_reference.shape, 1 + len(active)))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True)
    reward, own = SCORE_STD * noise[..., 0], SCORE_STD * noise[..., 1:]
    costs = CONFLICT * reward[..., None] + np.sqrt(1 - CONFLICT**2) * own
    # Far enough from INITIAL_MULTIPLIER that λ must move to come within 10%.
    low, high = (0.8, 1.6) if sum(active) == 1 else (0.6, 1.0)
    multipliers = np.where(active, rng.uniform(low, high, len(active)), 0.0)
    slack = np.where(active, 0.0, rng.uniform(0.6, 1.0, len(active)))
    world = World(reference, log_reference, reward, costs, multipliers)
    reached = expectation(optimum(world, multipliers), costs)
    thresholds = np.array(THRESHOLDS[: len(active)])
    return dataclasses.replace(world, costs=costs - reached + thresholds - slack)
