"""PPO: reinforcement learning from a reward model, without any constraint.

    python -m beaver_jax.train --config=configs/ppo.py

The baseline that becomes more helpful and more harmful. Missing inputs (SFT, reward
model) are trained first. Presets: tiny (the built-in world), local (your own model
and rows), llama-7b (the original's hyper-parameters).
"""

from beaver_jax import config as config_lib
from beaver_jax import fragments

PRESETS = ('tiny', 'local', 'llama-7b')


def get_config(preset='tiny'):
    """Returns the config of a preset."""
    if preset not in PRESETS:
        raise config_lib.unknown_preset(preset, PRESETS)
    return fragments.reinforcement('ppo', preset)
