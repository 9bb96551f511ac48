r"""A reward model from pairs.

    python -m beaver_jax.train --config=configs/reward.py

learns what is helpful, which of two responses is better, from the built-in world, and
leaves runs/tiny/reward/model. It starts from runs/tiny/sft, trained first where it is
missing. With your own model and pairs (jsonl with `prompt`, `response_0`, `response_1`,
`better_response_id`):

    python -m beaver_jax.train --config=configs/reward.py:local \
        --config.model.init=MODEL_DIRECTORY --config.data.reward_pairs=PAIRS.jsonl

Preset llama-7b has the hyper-parameters of the original implementation.
"""

from beaver_jax import config as config_lib
from beaver_jax import fragments

PRESETS = ('tiny', 'local', 'llama-7b')


def get_config(preset='tiny'):
    """Returns the config of a preset."""
    if preset not in PRESETS:
        raise config_lib.unknown_preset(preset, PRESETS)
    config = fragments.preference('reward', preset)
    if preset == 'tiny':
        config.epochs = 2.5
        config.optimizer.learning_rate = 2e-3
        config.optimizer.warmup_ratio = 0.1
    if preset == 'llama-7b':
        fragments.llama_7b(config, 'model')
        config.batch_size = 128  # 16 a device, 8 devices
        config.parts = 4
    return config
