"""A stage's samples without their padding: packs for scoring and for the update."""

from collections.abc import Sequence
from typing import Any

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

Packs = types.Packs | None


class Packer:
    """Packs samples on the host, once their lengths are known.

    Without `config.rollout.pack_sizes` there are none.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        mesh: Mesh,
        settings: ppo_config.PPOConfig,
    ):
        """Compiles nothing yet."""
        self._config, self._mesh, self._settings = config, mesh, settings
        section = config.rollout
        self._rows = rows = section.prompts * section.samples_per_prompt
        self._devices = mesh.shape['data'] * mesh.shape['fsdp']
        self._orders = jax.jit(
            lambda key: ppo_lag.minibatch_orders(key, rows, settings)
        )
        self._of_rows = sharding.batch_sharding(mesh)
        self._of_minibatches = NamedSharding(mesh, PartitionSpec(None, *sharding.BATCH))

    def __call__(self, samples: types.Samples, key: jax.Array) -> tuple[Packs, Packs]:
        """What scoring reads, and, by minibatch, the update of this key."""
        section = self._config.rollout
        if not section.pack_sizes:
            return None, None
        masks = (samples.mask, samples.response_mask)
        mask, response_mask = sharding.to_host(masks)
        lengths = samples.replace(mask=mask, response_mask=response_mask)

        def made(order, parts):
            return packs.pack(
                lengths,
                order,
                devices=self._devices,
                parts=parts,
                sizes=section.pack_sizes,
            )

        scored = made(np.arange(self._rows)[None], section.chunks)
        learnt = made(sharding.to_host(self._orders(key)), self._settings.parts)
        one = jax.tree.map(lambda x: x[0], scored)
        return (
            sharding.spread(self._mesh, one, self._of_rows),
            sharding.spread(self._mesh, learnt, self._of_minibatches),
        )

    def scored(self) -> Sequence[Packs]:
        """All that scoring may get, as shapes."""
        return self._shapes((), self._rows, self._config.rollout.chunks, self._of_rows)

    def learnt(self) -> Sequence[Packs]:
        """All that the update may get, as shapes."""
        minibatches = self._settings.epochs * self._settings.minibatches
        rows = self._rows // self._settings.minibatches
        parts = self._settings.parts
        return self._shapes((minibatches,), rows, parts, self._of_minibatches)

    def _shapes(self, leading, rows, parts, where) -> Sequence[Packs]:
        config = self._config
        if not config.rollout.pack_sizes:
            return [None]
        groups = self._devices * parts
        width = config.max_prompt_length + config.max_response_length

        def array(count, length) -> Any:
            shape = (*leading, count, length)
            return jax.ShapeDtypeStruct(shape, np.int32, sharding=where)

        return [
            types.Packs(
                source=array(count * groups, width),
                segments=array(count * groups, width),
                places=array(rows, config.max_response_length + 1),
            )
            for count in packs.counts(rows // groups, config.rollout.pack_sizes)
        ]
