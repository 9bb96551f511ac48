"""A stage's samples without their padding: packs for scoring and for the update."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import ml_collections
import numpy as np

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.rollout import packs
from beaver_jax.steps import ppo_config
from beaver_jax.steps import ppo_lag

# (samples, key of the update) to packs that scoring reads and that the update does.
Packer = Callable[
    [types.Samples, jax.Array], tuple[types.Packs | None, types.Packs | None]
]


def packer(
    config: ml_collections.ConfigDict, mesh: Mesh, settings: ppo_config.PPOConfig
) -> Packer:
    """Packs samples on the host, once their lengths are known.

    Without `config.rollout.pack_sizes` there are none.
    """
    section = config.rollout
    if not section.pack_sizes:
        return lambda samples, key: (None, None)
    devices = mesh.shape['data'] * mesh.shape['fsdp']
    rows = section.prompts * section.samples_per_prompt
    orders = jax.jit(lambda key: ppo_lag.minibatch_orders(key, rows, settings))

    def pack(samples, key):
        masks = (samples.mask, samples.response_mask)
        mask, response_mask = sharding.to_host(masks)
        lengths = samples.replace(mask=mask, response_mask=response_mask)

        def made(order, parts):
            return packs.pack(
                lengths, order, devices=devices, parts=parts, sizes=section.pack_sizes
            )

        scored = made(np.arange(rows)[None], section.chunks)
        learnt = made(sharding.to_host(orders(key)), settings.parts)
        one = jax.tree.map(lambda x: x[0], scored)
        by_minibatch = NamedSharding(mesh, PartitionSpec(None, *sharding.BATCH))
        return sharding.spread(mesh, one), sharding.spread(mesh, learnt, by_minibatch)

    return pack
