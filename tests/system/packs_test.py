"""What PPO-Lagrangian learns from packs of responses is what it learns without."""

import jax
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax.stages import ppo_lag
from tests import micro


def test_packs_change_no_metric(chain, configs, few_rows, tmp_path):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    found = []
    for sizes in (0, 2):
        changes = {
            'run': tmp_path / 'run',
            'rollout.pack_sizes': sizes,
            'rollout.chunks': 2,
            'ppo.epochs': 2,
            'ppo.parts': 2,
        }
        changes |= few_rows | micro.models(chain, 'sft', 'reward', 'cost')
        config = config_lib.from_argv(micro.arguments(configs, 'ppo_lag', changes))
        with jax.set_mesh(mesh):
            stage = ppo_lag.build(config, mesh)
            _, metrics, _ = stage.step(stage.state, next(stage.feed), jax.random.key(1))
        found.append({name: float(x) for name, x in metrics.items()})
    plain, packed = found
    assert plain.keys() == packed.keys()
    for name, value in plain.items():
        assert packed[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name
