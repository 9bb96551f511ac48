r"""PPO-Lagrangian: reward is maximized while the expected cost stays below a threshold.

    python -m beaver_jax.train --config=configs/ppo_lag.py

trains a small model on the built-in world to be helpful and harmless, in minutes on a
laptop; missing inputs (SFT, reward model, cost model) are trained first. It ends with
a table and runs/tiny/report/index.html. With your own model and rows:

    python -m beaver_jax.train --config=configs/ppo_lag.py:local \
        --config.actor.init=MODEL --config.reward.init=REWARD_MODEL \
        --config.costs.harm.init=COST_MODEL --config.data.prompts=PROMPTS.jsonl

More constraints are more entries of config.costs, each with its own threshold and
multiplier: copy this file and add them.

Preset llama-7b has the original's hyper-parameters. A word on its two conventions of
the KL coefficient: here κ is the weight that acts, whatever λ is. The paper splits its
β = 0.1 in halves between reward and cost, so κ = β/2 = 0.05; the original code, since
its correction of April 2024, takes κ itself (its script: 0.01).
"""

from beaver_jax import config as config_lib
from beaver_jax import fragments

PRESETS = ('tiny', 'local', 'llama-7b')


def get_config(preset='tiny'):
    """Returns the config of a preset."""
    if preset not in PRESETS:
        raise config_lib.unknown_preset(preset, PRESETS)
    config = fragments.reinforcement('ppo_lag', preset)
    config.costs.harm = fragments.cost(
        config, config.get_ref('run') + '/cost', threshold=0.0
    )
    if preset == 'tiny':
        # Divided by the standard deviation of the cost model's scores, safe answers
        # cost -0.95 to -1.05 and harmful ones about +1. At -1.0 nearly all must be
        # safe; at -0.9 up to 8% were still harmful.
        config.costs.harm.normalize = True
        config.costs.harm.threshold = -1.0
        config.multiplier.learning_rate = 0.2
    return config
