"""The models of a stage as shapes in their shardings: nothing is read or allocated.

What `sft`, `preference` and `ppo_models` load, as `jax.ShapeDtypeStruct`s. A model
needs a `config.json`; where a stage that is yet to be trained has none, that of
`config.base` says what it will be, or the built-in world's `model.scratch`.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import sharding
from beaver_jax.data import world
from beaver_jax.models import config as model_lib
from beaver_jax.models import hf
from beaver_jax.models import hf_config
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import quantize
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.stages import critics as critics_lib
from beaver_jax.stages import inputs
from beaver_jax.stages import learning
from beaver_jax.stages import shared_base

Model = transformer.CausalLM | score.ScoreModel


@dataclasses.dataclass(frozen=True)
class Role:
    """A model of a stage.

    Attributes:
      name: Such as 'actor' or 'cost critic harm'.
      model: A CausalLM or ScoreModel.
      lora: Its adapters; with rank 0 there are none.
      learns: Whether it has gradients and an optimizer state.
      params: Its own: everything, or adapters and a head.
      base: Frozen parameters under them; {} without adapters.
      stands_on: Name of the role that holds `base` in memory (its own name, where it
        loads one for itself); '' without.
      section: config.<section> says how it computes.
    """

    name: str
    model: Any
    lora: lora_lib.LoraConfig
    learns: bool
    params: Any
    base: Any
    stands_on: str
    section: str

    def over(self, base: Any) -> Any:
        """The model, to be applied to its own parameters."""
        return lora_lib.Adapted(self.model, self.lora, base) if base else self.model

    def held(self) -> Any:
        """What it adds to memory."""
        if self.stands_on == self.name:
            return self.params, self.base
        # Without adapters it is what it stands on.
        return {} if self.stands_on and not self.lora.rank else self.params


def of(config: ml_collections.ConfigDict, mesh: Mesh, sft: Any) -> list[Role]:
    """The roles of a stage.

    Args:
      config: Of the stage.
      mesh: Where its parameters would lie.
      sft: The config of the same run's SFT, which knows what a fresh model is.

    Raises:
      InputError: There is no config.json to know a model by.
    """
    if 'actor' in config:
        return _reinforced(config, mesh, sft)
    section = config.model
    lora = learning.settings(section, 'model')
    dtype = inputs.param_dtype(section, frozen=lora.rank > 0)
    backbone = _decoder(section, 'model', config.base, sft)
    if config.stage == 'sft':
        model: Model = transformer.CausalLM(backbone)
    else:
        model = score.ScoreModel(_head(backbone, section.head, config.stage))
    return [_role(mesh, 'model', model, dtype, lora=lora, few=section.quantize)]


def _reinforced(config, mesh, sft) -> list[Role]:
    actor_lora = learning.settings(config.actor, 'actor')
    critic_lora = learning.settings(config.critic, 'critic')
    shared_base.check_settings(config)
    decoder = functools.partial(_decoder, base=config.base, sft=sft)
    actor = _role(
        mesh,
        'actor',
        transformer.CausalLM(decoder(config.actor, 'actor')),
        inputs.param_dtype(config.actor, frozen=actor_lora.rank > 0),
        lora=actor_lora,
        few=config.actor.quantize,
    )
    reference = _role(
        mesh,
        'reference',
        transformer.CausalLM(decoder(config.reference, 'reference')),
        inputs.param_dtype(config.reference, frozen=True),
        learns=False,
        few=config.reference.quantize,
        section='reference',
    )
    if actor_lora.rank and config.reference.init == config.actor.init:
        reference = dataclasses.replace(reference, params=actor.base, stands_on='actor')
    scorers, critics = [], []
    for name, section in inputs.scorers(config).items():
        kind = name.partition('.')[0].removesuffix('s')
        label = name.partition('.')[2]
        backbone = decoder(section, name)
        head = _head_of(section, backbone, kind)
        of_base = actor if config.share_base else None
        alike = dataclasses.replace(backbone, **inputs.compute(config.actor, 'actor'))
        if of_base and alike != actor.model.config:
            raise inputs.InputError(
                f'config.share_base=True, but config.{name} is another model '
                'than config.actor, whose base it is to stand on.'
            )
        scorer = _role(
            mesh,
            f'{kind} model {label}'.strip(),
            score.ScoreModel(head),
            inputs.param_dtype(section, frozen=True),
            lora=critic_lora if of_base else lora_lib.LoraConfig(),
            learns=False,
            over=of_base,
            section=name,
            few=section.quantize,
        )
        scorers.append(scorer)
        if kind == 'cost' and section.threshold is None:
            continue
        start = _critic_start(config, name)
        if start != name:
            section = inputs.sections(config)[start]
            backbone = decoder(section, start)
            head = _head_of(section, backbone, 'critic')
        fields = inputs.compute(config.critic, 'critic')
        head = dataclasses.replace(
            head,
            backbone=dataclasses.replace(backbone, **fields),
            score_type='critic',
            score_dim=1,
        )
        stands_on = scorer if critic_lora.rank and start == name else None
        critics.append(
            _role(
                mesh,
                f'{kind} critic {label}'.strip(),
                score.ScoreModel(head),
                inputs.param_dtype(config.critic, frozen=critic_lora.rank > 0),
                lora=critic_lora,
                over=of_base or stands_on,
                section='critic',
                few=config.critic.quantize,
            )
        )
    return [actor, reference, *scorers, *critics]


def _critic_start(config: ml_collections.ConfigDict, name: str) -> str:
    """The section that a critic starts from: 'critic', 'actor' or its score model's."""
    if config.critic.init:
        return 'critic'
    inits = (config.actor.init, inputs.scorers(config)[name].init)
    if any(inputs.find_model(path) is None for path in inits):  # yet to be trained
        return name
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    key, _ = critics_lib.start(config, tokenizer, name)
    return key.removesuffix('.init')


def _role(
    mesh: Mesh,
    name: str,
    model: Model,
    dtype: str,
    *,
    lora: lora_lib.LoraConfig | None = None,
    learns: bool = True,
    over: Role | None = None,
    section: str = '',
    few: str = 'none',
) -> Role:
    """A role whose parameters, or whose base, have a type; a head is float32.

    Args:
      mesh: Where they lie.
      name: Of the role.
      model: What it is.
      dtype: Of what is loaded.
      lora: Its adapters.
      learns: Whether they, or the whole model, learn.
      over: The role whose base it stands on; None for one of its own.
      section: See `Role`; the name if ''.
      few: Bits of frozen kernels, one of `quantize.KINDS`.
    """
    lora = lora or lora_lib.LoraConfig()
    section = section or name
    whole = hf.abstract_params(model)
    head = {k: v for k, v in whole.items() if k == 'score_head'}
    loaded = _typed({k: v for k, v in whole.items() if k not in head}, dtype)
    if few != 'none':
        loaded = jax.eval_shape(lambda p: quantize.quantized(p, few), loaded)
    if not lora.rank:
        params = placed(mesh, loaded | head)
        return Role(name, model, lora, learns, params, {}, '', section)
    base, stands_on = placed(mesh, loaded), name
    if over is not None:
        held = over.base or over.params  # adapters over it, or the score model itself
        backbone = held.get('backbone', held)
        backbone = {k: v for k, v in backbone.items() if k != 'lm_head'}
        base, stands_on = {'backbone': backbone}, over.name
    adapters = jax.eval_shape(
        functools.partial(lora_lib.init, lora, base), jax.random.key(0)
    )
    params = placed(mesh, adapters | head)
    return Role(name, model, lora, learns, params, base, stands_on, section)


def placed(mesh: Mesh, shapes: Any) -> Any:
    """Shapes in the shardings of the decoder's rules; all else is on every device."""
    shardings = sharding.state_shardings(mesh, shapes, transformer.RULES)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


def _typed(shapes: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


def _head(backbone, section, kind: str) -> model_lib.ScoreConfig:
    return inputs.settings(
        model_lib.ScoreConfig,
        'model.head',
        section,
        backbone=backbone,
        score_type=kind,
    )


def _head_of(section, backbone, kind: str) -> model_lib.ScoreConfig:
    """The score model of a directory; one output and a bias where it is yet to be."""
    directory = _described(section.init)
    said = {} if directory is None else hf_config.read(directory)
    if not said or not hf_config.is_score_model(said):
        return model_lib.ScoreConfig(backbone=backbone, score_type=kind)
    found = hf_config.score(said)
    return dataclasses.replace(found, backbone=backbone, score_type=kind)


def _described(path: str) -> pathlib.Path | None:
    """A model's directory, or a stage's; the weights may be missing."""
    for candidate in (pathlib.Path(path) / inputs.MODEL, pathlib.Path(path)):
        file = candidate / 'config.json'
        # A stage's own config.json says nothing of a model.
        if path and file.is_file() and '"model_type"' in file.read_text():
            return candidate
    return None


def _decoder(section, name: str, base: str, sft: Any) -> model_lib.TransformerConfig:
    fields = inputs.compute(section, name)
    directory = _described(section.init)
    # Only what the run itself is to train is known from what it starts from.
    made = [pathlib.Path(sft.run) / stage for stage in ('sft', 'reward', 'cost')]
    if section.init in ('', base) or pathlib.Path(section.init) in made:
        directory = directory or _described(base)
    elif directory is None:
        raise inputs.InputError(
            f'config.{name}.init={section.init!r} holds no config.json of a model; '
            'weights are not needed, but name a directory with the config.json.'
        )
    if directory is not None:
        found = hf.backbone_config(directory)
        return dataclasses.replace(found, **fields)
    if not base and sft.data.world:
        return inputs.settings(
            model_lib.TransformerConfig,
            'model.scratch',
            sft.model.scratch,
            vocab_size=world.VOCABULARY,
            **fields,
        )
    raise inputs.InputError(
        f'config.{name}.init={section.init!r} holds no config.json of a model, nor '
        f'does config.base={base!r}; weights are not needed, but name a directory with '
        'the config.json of the model.'
    )
