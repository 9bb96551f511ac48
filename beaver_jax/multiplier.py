"""Lagrange multipliers as Optax transforms: λ is just another learner.

The "gradient" of a multiplier is the excess Ĉ - d of its constraint, to be climbed.
A chain ends in one of the two forms, which turn η·(Ĉ - d) into an update of λ:

    optax.chain(delay(100), optax.scale(0.1), projected_ascent(max_value=5.0))

Both act on any pytree of λ, one scalar per constraint. The cost window, whose mean is
Ĉ, stands here too: it is part of the state that moves λ.
"""

from collections.abc import Mapping
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import optax


class DelayState(NamedTuple):
    """State of `delay`."""

    updates: jax.Array  # [] int32, seen so far


def delay(steps: int) -> optax.GradientTransformation:
    """Holds λ still during the first `steps` updates.

    Args:
      steps: Not negative.
    """

    def init(params):
        del params
        return DelayState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        moves = state.updates >= steps
        updates = jax.tree.map(lambda u: jnp.where(moves, u, 0.0), updates)
        return updates, DelayState(optax.safe_increment(state.updates))

    return optax.GradientTransformation(init, update)


def projected_ascent(
    max_value: float | None = None,
) -> optax.GradientTransformation:
    """λ ← min(max(λ + u, 0), λ_max), u = η·(Ĉ - d): projected gradient ascent.

    Args:
      max_value: λ_max; None for no upper bound.
    """

    def move(value, u):
        return jnp.clip(value + u, 0.0, max_value) - value

    return optax.stateless_with_tree_map(lambda u, value: move(value, u))


def log_space_ascent(
    max_value: float | None = None,
) -> optax.GradientTransformation:
    """log λ ← min(log λ + λ·u, log λ_max), u = η·(Ĉ - d).

    Gradient ascent on λ·(Ĉ - d) in log λ (arXiv 2310.12773, equation 31). It moves λ
    by about λ²·u, so that it leaves a small λ slowly and λ = 0 never.

    Args:
      max_value: λ_max; None for no upper bound.
    """

    def move(value, u):
        return jnp.clip(value * jnp.exp(value * u), None, max_value) - value

    return optax.stateless_with_tree_map(lambda u, value: move(value, u))


class CostWindow(struct.PyTreeNode):
    """The last W episode costs of one constraint, over all devices: a ring buffer."""

    costs: jax.Array  # [W] float32
    count: jax.Array  # [] int32, costs seen since the beginning


def init_window(size: int) -> CostWindow:
    """Returns an empty window of `size` costs."""
    return CostWindow(jnp.zeros(size), jnp.zeros((), jnp.int32))


def push_costs(window: CostWindow, costs: jax.Array) -> CostWindow:
    """Writes costs [B] over the oldest ones; of more than W the last W stay."""
    size = window.costs.shape[0]
    kept = costs[-size:]
    start = window.count + costs.shape[0] - kept.shape[0]
    slots = (start + jnp.arange(kept.shape[0])) % size
    return CostWindow(window.costs.at[slots].set(kept), window.count + costs.shape[0])


def window_mean(window: CostWindow) -> jax.Array:
    """Ĉ: the mean of the costs in the window, [] float32; 0 when empty."""
    size = window.costs.shape[0]
    filled = jnp.minimum(window.count, size)
    inside = jnp.arange(size) < filled
    total = jnp.sum(jnp.where(inside, window.costs, 0.0))
    return total / jnp.maximum(filled, 1)


def excess(
    windows: Mapping[str, CostWindow], thresholds: Mapping[str, float]
) -> dict[str, jax.Array]:
    """Ĉ_k - d_k by constraint."""
    return {name: window_mean(windows[name]) - thresholds[name] for name in windows}
