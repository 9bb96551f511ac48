"""Model cards: what a model is, what it was made of, and its figures."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import ml_collections

from beaver_jax import config as config_lib
from beaver_jax import metrics as metrics_lib
from beaver_jax.stages import directories

LEARNT = {
    'sft': 'A language model after supervised fine-tuning',
    'reward': 'A reward model: a higher score is more helpful',
    'cost': 'A cost model: a higher score is more harmful, below 0 is safe',
    'ppo': 'A language model after PPO on a reward model',
    'ppo_lag': 'A language model after PPO-Lagrangian: reward under constraints',
    'ppo_reward_shaping': 'A language model after PPO on reward minus costs',
}


def text(
    directory: pathlib.Path,
    config: ml_collections.ConfigDict,
    *,
    section: str,
    step: int,
    adapter: bool,
) -> str:
    """The README.md of a model that a stage has trained.

    Args:
      directory: Of the stage, for its figures.
      config: Of the stage.
      section: Of the config, with what is said of the model.
      step: Of the checkpoint.
      adapter: Whether it is an adapter, not a whole model.
    """
    stage = config.stage
    parts = [
        _front_matter(stage, adapter),
        f'# {stage}\n',
        f'{LEARNT[stage]}, by [Safe RLHF](https://arxiv.org/abs/2310.12773) with '
        'beaver_jax.\n',
        f'- base: {_base(config[section])}',
        f'- stage: `{stage}`, step {step}',
        f'- learnt: {_learnt(config[section])}\n',
        *_figures(directory, step),
        '## Config\n',
        '```json',
        json.dumps(_flat(config), indent=2, sort_keys=True),
        '```\n',
    ]
    return '\n'.join(parts)


def _front_matter(stage: str, adapter: bool) -> str:
    tags = '\n'.join(f'- {tag}' for tag in ('beaver_jax', 'safe-rlhf', stage))
    library = 'peft' if adapter else 'transformers'
    return f'---\nlibrary_name: {library}\ntags:\n{tags}\n---\n'


def _base(section: ml_collections.ConfigDict) -> str:
    return f'`{section.init}`' if section.init else 'none, trained from scratch'


def _learnt(section: ml_collections.ConfigDict) -> str:
    lora = section.lora
    if not lora.rank:
        return 'all parameters'
    return f'adapters of rank {lora.rank}, alpha {lora.alpha}, on `{lora.targets}`'


def _flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return metrics_lib.jsonable(config_lib.flatten(config))


def _figures(directory: pathlib.Path, step: int) -> list[str]:
    """Held-out figures of a finished stage, and those of the step's training."""
    found: list[str] = []
    file = directory / directories.SUMMARY
    summary = json.loads(file.read_text()) if file.is_file() else {}
    if summary.get('steps') == step:
        figures = dict(summary['metrics'])
        for name, multiplier in summary.get('multiplier', {}).items():
            figures[f'λ of {name}'] = multiplier['final']
        if figures:
            found += ['## Held-out rows and multipliers\n', *_table(figures)]
    rows = directory / metrics_lib.METRICS
    logged = metrics_lib.read(rows) if rows.is_file() else []
    for row in logged:
        if row['step'] == step:
            figures = {name: row[name] for name in sorted(row) if name != 'step'}
            found += [f'## Training, step {step}\n', *_table(figures)]
    return found


def _table(figures: Mapping[str, Any]) -> list[str]:
    rows = [f'| {name} | {float(value):.6g} |' for name, value in figures.items()]
    return ['| figure | value |', '| --- | --- |', *rows, '']
