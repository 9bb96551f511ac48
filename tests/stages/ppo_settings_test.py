"""Settings of reinforcement learning that a config may have."""

import jax.numpy as jnp
import optax
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax.stages import ppo_settings
from tests import micro

FILE = str(micro.ROOT / 'configs' / 'ppo_lag.py')


@pytest.mark.parametrize('form', ppo_settings.FORMS)
def test_a_multiplier_may_be_without_a_bound(form):
    changes = {'max': 'inf', 'form': form, 'learning_rate': '0.1'}
    overrides = {f'multiplier.{key}': value for key, value in changes.items()}
    config = config_lib.load(FILE, overrides | {'costs.harm.multiplier_init': '9'})
    _, thresholds = ppo_settings.check(config, sharding.make_mesh())
    assert list(thresholds) == ['harm']
    move = ppo_settings.multiplier_optimizer(config.multiplier)
    multiplier = {'harm': jnp.float32(9)}
    updates, _ = move.update(
        {'harm': jnp.float32(1)}, move.init(multiplier), multiplier
    )
    moved = optax.apply_updates(multiplier, updates)['harm']
    # 9 + 0.1·1, and 9·exp(9·0.1·1).
    expected = {'projected': 9.1, 'log': 22.136428}
    assert float(moved) == pytest.approx(expected[form], rel=1e-6)
