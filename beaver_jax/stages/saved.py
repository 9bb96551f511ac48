"""What a stage has learnt so far, from its directory: a checkpoint, and no data."""

import dataclasses
import pathlib

from flax import traverse_util
import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import checkpoint
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax.models import hf
from beaver_jax.models import lora as lora_lib
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.stages import directories
from beaver_jax.stages import inputs
from beaver_jax.stages import learning as learning_lib
from beaver_jax.stages import loading
from beaver_jax.stages import outputs
from beaver_jax.stages import preference
from beaver_jax.stages import sft

PREFERENCES = ('reward', 'cost')
# By stage, the section of its config that is said of its model. A state has the model
# under the same name.
SECTIONS = dict.fromkeys(('sft', *PREFERENCES), 'model')
SECTIONS |= dict.fromkeys(stages.REINFORCED, 'actor')


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model of some step of a stage.

    Attributes:
      config: The stage's.
      section: Of the config, with what is said of the model: 'model' or 'actor'.
      step: Of the checkpoint.
      model: Without parameters.
      tokenizer: Of the model.
      lora: With rank 0 the whole model has learnt.
      params: What has learnt: everything, or adapters and a score head.
      normalizer: Of a score model.
      mesh: Where the parameters are.
    """

    config: ml_collections.ConfigDict
    section: str
    step: int
    model: transformer.CausalLM | score.ScoreModel
    tokenizer: inputs.Tokenizer
    lora: lora_lib.LoraConfig
    params: hf.Params
    normalizer: score.Normalizer | None
    mesh: Mesh

    @property
    def init(self) -> str:
        """The directory that the stage started from; empty for a fresh model."""
        return self.config[self.section].init

    def export(self, directory: pathlib.Path, form: outputs.Form) -> None:
        """Writes the model, adapters merged into it, as the stage's end would."""
        base = _base(self.config, self.mesh) if self.lora.rank else {}
        learning = learning_lib.Learning(self.lora, self.params, base)
        params = learning.folded(self.mesh, self.params)
        if isinstance(self.model, transformer.CausalLM):
            outputs.export_causal_lm(
                self.model, params, self.tokenizer, directory, form
            )
        else:
            assert self.normalizer is not None  # every score model has one
            outputs.export_score_model(
                self.model, params, self.normalizer, self.tokenizer, directory, form
            )

    def export_adapter(self, directory: pathlib.Path, form: outputs.Form) -> None:
        """Writes the adapters alone; of a score model with its head and normalizer.

        Raises:
          InputError: See `check_adapter`.
        """
        check_adapter(self.config)
        if isinstance(self.model, transformer.CausalLM):
            outputs.export_adapter(
                self.model.config,
                self.lora,
                self.params,
                self.init,
                self.tokenizer,
                directory,
                form,
            )
        else:
            assert self.normalizer is not None  # every score model has one
            outputs.export_score_adapter(
                self.model.config,
                self.lora,
                self.params,
                self.normalizer,
                self.init,
                self.tokenizer,
                directory,
                form,
            )


def read_config(directory: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a stage's directory, wherever its run has been moved.

    Raises:
      InputError: There is none, or it is not that of a stage that trains a model.
    """
    file = directory / directories.CONFIG
    try:
        flat = directories.recorded(directory, str(directory.parent))
    except (OSError, ValueError, AttributeError) as error:
        raise inputs.InputError(
            f'{file}: not the config of a stage ({error}).'
        ) from error
    stage = flat.get('stage')
    if stage not in SECTIONS:
        problem = (
            f'{file}: stage={stage!r} trains no model'
            if stage
            else (f'{directory}: no {directories.CONFIG} of a stage')
        )
        raise inputs.InputError(
            f'{problem}; name the directory of a stage, such as runs/tiny/sft.'
        )
    return ml_collections.ConfigDict(traverse_util.unflatten_dict(flat, sep='.'))


def check_adapter(config: ml_collections.ConfigDict) -> None:
    """Refuses a stage without adapters.

    Raises:
      InputError: It learns in full.
    """
    section = SECTIONS[config.stage]
    if not config[section].lora.rank:
        raise inputs.InputError(
            f'config.{section}.lora.rank=0: the whole model has learnt, there is no '
            'adapter; export the model.'
        )


def load(directory: pathlib.Path, step: int | None = None) -> Saved:
    """Reads the model of a checkpoint; neither optimizer states nor other models.

    The run may be unfinished, killed, or going on meanwhile.

    Args:
      directory: Of a stage, <run>/<stage>.
      step: Of the checkpoint; None for the newest.

    Raises:
      InputError: See `read_config`; what the stage started from is gone.
      CheckpointError: See `checkpoint.read`; adapters whose base has changed.
    """
    config = read_config(directory)
    section = SECTIONS[config.stage]
    tokenizer, model = _model(config, section)
    lora = learning_lib.settings(config[section], section)
    shapes = {
        f'{section}/params': learning_lib.shapes(
            lora, section, hf.abstract_params(model)
        )
    }
    if isinstance(model, score.ScoreModel):
        dim = model.config.score_dim
        shapes['normalizer'] = jax.eval_shape(lambda: score.init_normalizer(dim))
    mesh = _mesh(hf.abstract_params(model))
    shardings = sharding.state_shardings(mesh, shapes, transformer.RULES)
    part = checkpoint.read(
        directory / directories.CHECKPOINTS,
        checkpoint.abstract(shapes, shardings),
        step,
    )
    init = config[section].init
    checkpoint.check_bases(part.bases, learning_lib.fingerprint(lora, section, init))
    return Saved(
        config,
        section,
        part.step,
        model,
        tokenizer,
        lora,
        part.trees[f'{section}/params'],
        part.trees.get('normalizer'),
        mesh,
    )


def _model(
    config: ml_collections.ConfigDict, section: str
) -> tuple[inputs.Tokenizer, transformer.CausalLM | score.ScoreModel]:
    """Tokenizer and model of a stage, without parameters."""
    if config.stage == 'sft':
        tokenizer = sft.tokenizer_of(config)
        return tokenizer, sft.model_of(config, tokenizer)
    tokenizer = inputs.load_tokenizer(
        f'{section}.init', config[section].init, config.data.template
    )
    if config.stage in PREFERENCES:
        return tokenizer, preference.model_of(config, tokenizer)
    return tokenizer, loading.causal_lm_of(config[section], section)


def _base(config: ml_collections.ConfigDict, mesh: Mesh) -> hf.Params:
    """What a stage's adapters stand on."""
    if config.stage == 'sft':
        return sft.load(config, mesh)[1].base
    if config.stage in PREFERENCES:
        tokenizer = inputs.load_tokenizer('model.init', config.model.init)
        return preference.load(config, mesh, tokenizer)[1].base
    return loading.causal_lm(mesh, config.actor, 'actor', frozen=True)[1]


def _mesh(abstract: hf.Params) -> Mesh:
    """All devices, the parameters cut over as many of them as their axes allow."""
    count = jax.device_count()
    for parts in range(count, 1, -1):
        if count % parts:
            continue
        mesh = sharding.make_mesh(data=-1, fsdp=parts)
        try:
            inputs.placer(mesh)(abstract)
        except ValueError:  # an axis that this many devices do not divide
            continue
        return mesh
    return sharding.make_mesh(data=-1)
