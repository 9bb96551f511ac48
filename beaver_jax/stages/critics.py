"""The critics of reinforcement learning: what each of them starts from."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections

from beaver_jax.models import config as config_lib
from beaver_jax.models import hf
from beaver_jax.models import hf_config
from beaver_jax.models import score
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import loading
from beaver_jax.stages import scorers
from beaver_jax.stages import shared_base

log = logging.getLogger(__name__)


def critic(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    tokenizer: inputs.Tokenizer,
    name: str,
    scorer: scorers.Scorer,
) -> tuple[score.ScoreModel, learning_lib.Learning]:
    """A critic of the values of a score model, over the actor's tokens.

    It starts from that model where it has the actor's tokenizer. Adapters stand on that
    model's own parameters, which are not loaded again; or, where it is adapters itself,
    begin as a copy of them over the same base. See `start` for other starts.

    Args:
      config: Of a stage of reinforcement learning.
      mesh: Where its parameters go.
      tokenizer: The actor's.
      name: Of the score model: 'reward' or 'costs.<name>'.
      scorer: The score model.

    Raises:
      InputError: config.critic.init names no model with the actor's tokenizer; adapters
        that cannot begin as those of the score model.
    """
    key, path = start(config, tokenizer, name)
    if key == 'actor.init':
        log.info(
            'the critic of %s starts from config.actor.init=%r under a fresh head, as '
            'config.%s.init has another tokenizer; config.critic.init names another '
            'start',
            *(name, path, name),
        )
    lora = learning_lib.settings(config.critic, 'critic')
    own = key == f'{name}.init'
    # The output whose values are learnt; of another model, its first.
    output = inputs.scorers(config)[name].output if own else 0
    directory = inputs.model_directory(key, path)
    if own and lora.rank:
        if config.critic.quantize != 'none':
            raise inputs.InputError(
                f'config.critic.quantize={config.critic.quantize!r}, but the critic of '
                f'config.{name} stands on that model; set --config.{name}.quantize '
                'instead.'
            )
        fields = inputs.compute(config.critic, 'critic')
        backbone = dataclasses.replace(scorer.model.config.backbone, **fields)
        model_config = dataclasses.replace(scorer.model.config, backbone=backbone)
        params = scorer.held.params
    elif hf_config.is_score_model(hf_config.read(directory)):
        section = ml_collections.ConfigDict(config.critic.to_dict() | {'init': path})
        model, params, _ = loading.score_model(
            mesh, section, 'critic', frozen=lora.rank > 0
        )
        model_config = model.config
    else:
        model_config, params = _fresh(config, mesh, directory)
    columns = slice(output, output + 1)
    head = jax.tree.map(lambda x: x[..., columns], params['score_head'])
    params = params | {'score_head': head}
    # A critic learns returns, which are in the units of scores as they are.
    model_config = dataclasses.replace(
        model_config, score_type='critic', score_dim=1, normalize=False
    )
    if own and scorer.held.lora.rank:
        shared_base.check_critic(name, path, scorer.held.lora, lora)
        # Copies: what learns is donated.
        learnt = jax.tree.map(jnp.array, params)
        learning = learning_lib.Learning(lora, learnt, scorer.held.base)
    else:
        learning = learning_lib.of(lora, 'critic', mesh, params, config.seed)
    return score.ScoreModel(model_config), learning


def start(
    config: ml_collections.ConfigDict, tokenizer: inputs.Tokenizer, name: str
) -> tuple[str, str]:
    """What a critic starts from: the config's key, without 'config.', and its value.

    A critic reads the actor's tokens, so a score model with another tokenizer is none
    to start from: then it is the actor's own start, under a fresh head.

    Raises:
      InputError: config.critic.init has another tokenizer than the actor.
    """
    wanted = config.critic.init
    key, path = f'{name}.init', inputs.scorers(config)[name].init
    if wanted:
        key, path = 'critic.init', wanted
    theirs = inputs.load_tokenizer(key, path)
    # A critic has no template of its own: it reads ids.
    if theirs.get_vocab() == tokenizer.get_vocab():
        decoder = hf.backbone_config(inputs.model_directory(key, path))
        inputs.check_tokenizer(theirs, decoder, f'config.{key.removesuffix(".init")}')
        return key, path
    if wanted:
        raise inputs.InputError(
            f'config.critic.init={wanted!r} has another tokenizer than the actor; a '
            "critic reads the actor's tokens: name a model with its tokenizer, or "
            'leave it empty.'
        )
    return 'actor.init', config.actor.init


def _fresh(
    config: ml_collections.ConfigDict, mesh: Mesh, directory: Any
) -> tuple[config_lib.ScoreConfig, Any]:
    """A language model's decoder under a fresh head."""
    backbone, decoder = hf.load_backbone(
        directory,
        place=inputs.placer(mesh),
        param_dtype=inputs.param_dtype(
            config.critic, frozen=config.critic.lora.rank > 0
        ),
        **inputs.compute(config.critic, 'critic'),
    )
    model = score.ScoreModel(config_lib.ScoreConfig(backbone, score_type='critic'))
    key = jax.random.key(config.seed)
    params = loading.init_head(mesh, model, decoder, key)
    return model.config, loading.few_bits(mesh, config.critic, 'critic', params)
