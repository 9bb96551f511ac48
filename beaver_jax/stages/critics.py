"""The critics of reinforcement learning: what each of them starts from."""

import dataclasses
import logging
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib

log = logging.getLogger(__name__)


def critic(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    name: str,
    scorer_params: Any,
) -> tuple[score.ScoreModel, learning_lib.Learning]:
    """A critic of the values of a score model, over the actor's tokens.

    It starts from that model where it has the actor's tokenizer; adapters stand on its
    own parameters, which are not loaded again. See `start` for other starts.

    Args:
      config: Of a stage of reinforcement learning.
      mesh: Where its parameters go.
      tokenizer: The actor's.
      name: Of the score model: 'reward' or 'costs.<name>'.
      scorer_params: The score model's.

    Raises:
      InputError: config.critic.init names no model with the actor's tokenizer.
    """
    section = config
    for part in name.split('.'):
        section = section[part]
    key, path = start(config, section, tokenizer, name)
    directory = inputs.model_directory(key, path)
    if hf.is_score_model(hf.read_hf_config(directory)):
        shared = scorer_params if key == f'{name}.init' else None
        model, params = _score_model(config, mesh, key, path, shared)
        # The output whose values are learnt; of another model, its first.
        output = section.output if key == f'{name}.init' else 0
        columns = slice(output, output + 1)
        head = jax.tree.map(lambda x: x[..., columns], params['score_head'])
        params = params | {'score_head': head}
    else:
        model, params = _fresh(config, mesh, directory)
    # A critic learns returns, which are in the units of scores as they are.
    model_config = dataclasses.replace(
        model.config, score_type='critic', score_dim=1, normalize=False
    )
    lora = learning_lib.settings(config.critic, 'critic')
    return score.ScoreModel(model_config), learning_lib.of(
        lora, 'critic', mesh, params, config.seed
    )


def start(
    config: ml_collections.ConfigDict,
    section: ml_collections.ConfigDict,
    tokenizer: inputs.Tokenizer,
    name: str,
) -> tuple[str, str]:
    """What a critic starts from: the config's key, without 'config.', and its value.

    A critic reads the actor's tokens, so a score model with another tokenizer is none
    to start from: then it is the actor's own start, under a fresh head.

    Raises:
      InputError: config.critic.init has another tokenizer than the actor.
    """
    wanted = config.critic.init
    key, path = ('critic.init', wanted) if wanted else (f'{name}.init', section.init)
    theirs = inputs.load_tokenizer(key, path)
    # A critic has no template of its own: it reads ids.
    if theirs.get_vocab() == tokenizer.get_vocab():
        return key, path
    if wanted:
        raise inputs.InputError(
            f'config.critic.init={wanted!r} has another tokenizer than the actor; a '
            "critic reads the actor's tokens: name a model with its tokenizer, or "
            'leave it empty.'
        )
    log.info(
        'the critic of %s starts from config.actor.init=%r under a fresh head, as '
        'config.%s has another tokenizer; config.critic.init names another start',
        name,
        config.actor.init,
        key,
    )
    return 'actor.init', config.actor.init


def _score_model(
    config: ml_collections.ConfigDict, mesh: Mesh, key: str, path: str, shared: Any
) -> tuple[score.ScoreModel, Any]:
    """A score model to start from; adapters stand on `shared`, where it is loaded."""
    lora = config.critic.lora.rank > 0
    if lora and shared is not None:
        directory = inputs.model_directory(key, path)
        fields = inputs.compute(config.critic, 'critic')
        return hf.score_model(directory, **fields), shared
    section = ml_collections.ConfigDict(config.critic.to_dict() | {'init': path})
    model, params, _ = inputs.score_model(mesh, section, 'critic', frozen=lora)
    return model, params


def _fresh(
    config: ml_collections.ConfigDict, mesh: Mesh, directory: Any
) -> tuple[score.ScoreModel, Any]:
    """A language model's decoder under a fresh head."""
    backbone, decoder = hf.load_backbone(
        directory,
        place=inputs.placer(mesh),
        param_dtype=config.critic.dtype if config.critic.lora.rank else 'float32',
        **inputs.compute(config.critic, 'critic'),
    )
    model = score.ScoreModel(config_lib.ScoreConfig(backbone, score_type='critic'))
    key = jax.random.key(config.seed)
    return model, inputs.init_head(mesh, model, decoder, key)
