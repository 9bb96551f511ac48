"""Score models that are adapters over the actor's base, which is loaded once."""

from collections.abc import Sequence
import dataclasses
import pathlib

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import sharding
from beaver_jax.models import config as model_lib
from beaver_jax.models import fingerprint
from beaver_jax.models import hf
from beaver_jax.models import lora
from beaver_jax.models import score
from beaver_jax.models import score_adapter
from beaver_jax.stages import inputs
from beaver_jax.stages import learning
from beaver_jax.stages import outputs


@dataclasses.dataclass(frozen=True)
class Base:
    """The decoder that all stand on."""

    init: str  # config.actor.init
    config: model_lib.TransformerConfig
    params: hf.Params  # of the actor, its projection to logits included

    @property
    def decoder(self) -> hf.Params:
        """Its arrays under a score model's names."""
        return {'backbone': {k: v for k, v in self.params.items() if k != 'lm_head'}}


def check_settings(config: ml_collections.ConfigDict) -> None:
    """Refuses to share a base that the actor or a critic would change.

    Raises:
      InputError: A rank of 0.
    """
    if not config.share_base:
        return
    if config.critic.init:
        raise inputs.InputError(
            f'config.share_base=True and config.critic.init={config.critic.init!r}: '
            'over the shared base a critic begins as its score model; leave it empty.'
        )
    for name in ('actor', 'critic'):
        if not config[name].lora.rank:
            raise inputs.InputError(
                f'config.share_base=True and config.{name}.lora.rank=0: what learns in '
                'full cannot share its base; set --config.lora.rank=16.'
            )


def check_inputs(
    config: ml_collections.ConfigDict, made: Sequence[pathlib.Path]
) -> None:
    """Refuses score models that do not stand on the actor's base.

    Args:
      config: Of reinforcement learning.
      made: Directories of stages that will be trained first.

    Raises:
      InputError: No adapter, adapters of another base, or other than the critic's.
    """
    if not config.share_base:
        return
    there = pathlib.Path(config.actor.init) not in made
    critic = learning.settings(config.critic, 'critic')
    for name, section in inputs.scorers(config).items():
        if pathlib.Path(section.init) in made:
            continue
        directory = find(name, section.init)
        said = score_adapter.describe(directory)
        if name == 'reward' or section.threshold is not None:
            check_critic(name, section.init, said.lora, critic)
        if there:
            _check_base(name, directory, said, config.actor.init)


def check_critic(
    name: str, init: str, held: lora.LoraConfig, critic: lora.LoraConfig
) -> None:
    """Refuses a critic whose adapters cannot begin as those of its score model.

    Args:
      name: Section of the score model.
      init: Where it lies.
      held: Its adapters.
      critic: The critic's.

    Raises:
      InputError: They differ.
    """
    if held == critic:
        return
    wanted = ' '.join(
        f'--config.critic.lora.{field}={value}'
        for field, value in dataclasses.asdict(held).items()
        if value != getattr(critic, field)
    )
    raise inputs.InputError(
        f'config.{name}.init={init!r}: a critic over a shared base begins as a copy of '
        f'the adapters of its score model, so it needs the same settings; set {wanted}.'
    )


def find(name: str, path: str) -> pathlib.Path:
    """The adapters of the score model that config.<name>.init names.

    Raises:
      InputError: There are none.
    """
    stage = pathlib.Path(path)
    stage = stage.parent if stage.name == inputs.MODEL else stage
    if not (stage / outputs.ADAPTER / score_adapter.CONFIG).is_file():
        kind = 'reward' if name == 'reward' else 'cost'
        raise inputs.InputError(
            f'config.share_base=True, but config.{name}.init={path!r} holds no adapter '
            'over the base of the actor. Train one: python -m beaver_jax.train '
            f'--config=configs/{kind}.py --config.model.init=<config.actor.init> '
            '--config.model.lora.rank=<config.critic.lora.rank>; or set '
            '--config.share_base=False.'
        )
    return stage / outputs.ADAPTER


def _check_base(
    name: str, directory: pathlib.Path, said: score_adapter.Described, init: str
) -> None:
    base = inputs.model_directory('actor.init', init).resolve()
    if fingerprint.of(base) == said.fingerprint:
        return
    if str(base) == said.base:
        raise inputs.InputError(
            f'config.{name}.init: {directory} stands on {base}, which has changed '
            'since; train it anew, or restore the base.'
        )
    raise inputs.InputError(
        f'config.{name}.init: {directory} stands on {said.base}, not on {base}, '
        'the base of config.actor.init; name models of one base, or set '
        '--config.share_base=False.'
    )


def load_score_model(
    mesh: Mesh, section: ml_collections.ConfigDict, name: str, base: Base
) -> tuple[score.ScoreModel, learning.Learning, score.Normalizer]:
    """Loads adapters, head and normalizer, and lays them over the actor's base.

    Raises:
      InputError: See `find`; adapters of another base, or one that has changed.
      CheckpointError: A file cannot be read.
    """
    directory = find(name, section.init)
    said = score_adapter.describe(directory)
    _check_base(name, directory, said, base.init)
    backbone = dataclasses.replace(base.config, **inputs.compute(section, name))
    config, params, normalizer = score_adapter.load(directory, backbone)
    params = jax.device_put(params, inputs.placer(mesh)(params))
    normalizer = jax.device_put(normalizer, sharding.replicated(mesh))
    held = learning.Learning(said.lora, params, base.decoder)
    return score.ScoreModel(config), held, normalizer
