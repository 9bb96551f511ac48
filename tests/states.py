"""A small state with odd bits, and where tests save it."""

import pathlib

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from beaver_jax import checkpoint
from beaver_jax import sharding

WHOLE = PartitionSpec()


class State(struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: optax.OptState


def make(width=4, spec=WHOLE, **mesh) -> State:
    """A state with odd bits: NaN, infinity, -0 and a denormal number."""
    kernel = jnp.arange(8 * width, dtype=jnp.float32).reshape(8, width) / 7
    kernel = kernel.at[0].set(jnp.array([jnp.nan, jnp.inf, -0.0, 1e-42][:width]))
    devices = sharding.make_mesh(**mesh)
    params = {'kernel': jax.device_put(kernel, NamedSharding(devices, spec))}
    small = {'kernel': kernel.astype(jnp.bfloat16)}
    rest = jnp.int32(3), optax.adam(1e-3).init(small)
    step, opt_state = jax.device_put(rest, sharding.replicated(devices))
    return State(step, params, opt_state)


def abstract(state: State):
    return checkpoint.abstract(state, jax.tree.map(lambda x: x.sharding, state))


def bits(state: State) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def opened(directory: pathlib.Path, keep: int = 2) -> checkpoint.Checkpoints:
    return checkpoint.Checkpoints(directory / 'checkpoints', keep=keep)
