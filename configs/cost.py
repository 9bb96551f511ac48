r"""A cost model from pairs.

    python -m beaver_jax.train --config=configs/cost.py

learns what is harmful, which of two responses is safer and whether each is safe
(cost below 0), from the built-in world, and leaves
runs/tiny/cost/model. It starts from runs/tiny/sft, which is trained first where it is
missing. With your own model and pairs (jsonl with `prompt`, `response_0`, `response_1`,
`safer_response_id`, `is_response_0_safe`,
`is_response_1_safe`):

    python -m beaver_jax.train --config=configs/cost.py:local \
        --config.model.init=MODEL_DIRECTORY --config.data.cost_pairs=PAIRS.jsonl

Preset llama-7b has the hyper-parameters of the original implementation.
"""

from beaver_jax import config as config_lib
from beaver_jax import fragments

PRESETS = ('tiny', 'local', 'llama-7b')


def get_config(preset='tiny'):
    """Returns the config of a preset."""
    if preset not in PRESETS:
        raise config_lib.unknown_preset(preset, PRESETS)
    config = fragments.preference('cost', preset)
    if preset == 'tiny':
        config.epochs = 1.2
        config.optimizer.learning_rate = 2e-3
        config.optimizer.warmup_ratio = 0.1
    if preset == 'llama-7b':
        fragments.llama_7b(config, 'model')
        config.batch_size = 128  # 16 a device, 8 devices
        config.parts = 4
    return config
