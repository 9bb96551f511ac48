"""Whether adapters have something to stand on, before a chain of stages begins."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

import ml_collections

from beaver_jax import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import transformer
from beaver_jax.stages import critics
from beaver_jax.stages import directories
from beaver_jax.stages import inputs
from beaver_jax.stages import learning
from beaver_jax.stages import loading

Made = Mapping[pathlib.Path, ml_collections.ConfigDict]


def check(wanted: Sequence[ml_collections.ConfigDict]) -> None:
    """Refuses adapters whose expression matches no linear map of their model.

    A model that the chain is yet to train has the maps of the one it starts from.

    Args:
      wanted: Configs of the stages that are to run, inputs first.

    Raises:
      InputError: Names the role's expression, and the maps that there are.
    """
    made = {directories.directory(config): config for config in wanted}
    for config in wanted:
        for name, section, init in _roles(config, made):
            lora = learning.settings(section, name)
            if not lora.rank:
                continue
            model = _model(config, name, init, made)
            try:
                learning.shapes(lora, name, hf.abstract_params(model))
            except inputs.InputError as error:
                if config is wanted[-1]:
                    raise
                raise inputs.InputError(f'{config.stage}: {error}') from error


def _roles(
    config: ml_collections.ConfigDict, made: Made
) -> Iterator[tuple[str, ml_collections.ConfigDict, str]]:
    """Every section with adapters: its name, itself, the model under them."""
    if 'model' in config:
        yield 'model', config.model, config.model.init
    if 'actor' in config:
        yield 'actor', config.actor, config.actor.init
        names = [n for n, cost in config.costs.items() if cost.threshold is not None]
        for name in ('reward', *(f'costs.{name}' for name in names)):
            yield 'critic', config.critic, _critic_start(config, name, made)


def _critic_start(config: ml_collections.ConfigDict, name: str, made: Made) -> str:
    """What a critic starts from, as far as there is a tokenizer to tell by."""
    if config.critic.init:
        return config.critic.init
    scorer = config_lib.flatten(config)[f'{name}.init']
    if {pathlib.Path(scorer), pathlib.Path(config.actor.init)} & made.keys():
        return scorer
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    return critics.start(config, tokenizer, name)[1]


def _model(config: ml_collections.ConfigDict, name: str, init: str, made: Made) -> Any:
    """The model that a role's adapters stand on, without parameters."""
    learns_text = name == 'actor' or config.stage == 'sft'
    kind = transformer.CausalLM if learns_text else transformer.Decoder
    while (before := made.get(pathlib.Path(init))) is not None:
        init = (before.model if 'model' in before else before.actor).init
        if not init:  # made from scratch, with a tokenizer that may be yet to come
            return kind(loading.new_causal_lm(before.model, vocab_size=8).config)
    return kind(hf.backbone_config(inputs.model_directory(f'{name}.init', init)))
