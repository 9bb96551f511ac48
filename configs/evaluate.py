r"""Compares policies on held-out prompts: reward, cost, win rate, safe rate.

    python -m beaver_jax.evaluate --config=configs/evaluate.py

evaluates the finished policies of runs/tiny against its SFT model and writes
runs/tiny/evaluate/: results.json and samples.jsonl. With models of your own:

    python -m beaver_jax.evaluate --config=configs/evaluate.py:local \
        --config.models=before=DIRECTORY,after=DIRECTORY --config.baseline=before \
        --config.reward.init=REWARD_MODEL --config.costs.harm.init=COST_MODEL \
        --config.data.prompts_test=PROMPTS.jsonl

With --config.judge.url=https://HOST/v1 and --config.judge.model=NAME another model
compares the answers, too; docs/evaluation.md has its settings.
"""

from beaver_jax import config as config_lib
from beaver_jax import fragments

PRESETS = ('tiny', 'local', 'llama-7b')


def get_config(preset='tiny'):
    """Returns the config of a preset."""
    if preset not in PRESETS:
        raise config_lib.unknown_preset(preset, PRESETS)
    config = fragments.run('evaluate', preset)
    run = config.get_ref('run')
    # NAME=DIRECTORY, comma-separated; empty for all finished policies of the run.
    config.models = ''
    config.baseline = 'sft'
    config.policy = fragments.model(config, '')  # how every policy computes
    config.reward = fragments.model(config, run + '/reward')
    config.reward.normalize = False
    config.reward.output = 0
    config.reward.max_length = 0  # as in fragments.cost
    config.costs.harm = fragments.cost(config, run + '/cost', threshold=None)
    config.costs.harm.normalize = preset == 'tiny'  # as in configs/ppo_lag.py
    config.max_prompt_length = 32 if preset == 'tiny' else 256
    config.max_response_length = 24 if preset == 'tiny' else 256
    config.batch_size = 64
    # 0 is greedy; sampling draws the same numbers for the same prompt every time.
    config.sampler = fragments.sampler(temperature=1.0)
    # Of the prompts' categories those, separated by commas, that nobody should refuse.
    config.benign = ''
    # Held-out pairs that score models are measured on at most; 0: they are not.
    config.score_pairs = 2000
    config.kl = True  # to the baseline, which then stays in memory
    config.judge = fragments.judge()
    if preset == 'llama-7b':
        fragments.llama_7b(config)
    return config
