"""PPO on R - λ·C with a fixed λ: the reward-shaping baseline of Safe RLHF.

    python -m beaver_jax.train --config=configs/ppo_reward_shaping.py

Missing inputs (SFT, reward model, cost model) are trained first. Presets as in
configs/ppo_lag.py.
"""

from beaver_jax import config as config_lib
from beaver_jax import fragments

PRESETS = ('tiny', 'local', 'llama-7b')


def get_config(preset='tiny'):
    """Returns the config of a preset."""
    if preset not in PRESETS:
        raise config_lib.unknown_preset(preset, PRESETS)
    config = fragments.reinforcement('ppo_reward_shaping', preset)
    config.costs.harm = fragments.cost(
        config, config.get_ref('run') + '/cost', threshold=None, shaping=1.0
    )
    if preset == 'tiny':
        # As in configs/ppo_lag.py, where λ ends near 1.5.
        config.costs.harm.normalize = True
        config.costs.harm.shaping = 1.5
    return config
