"""Hugging Face directories in and out: causal LMs and safe-rlhf's score models."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax.models import config as config_lib
from beaver_jax.models import families
from beaver_jax.models import hf_config
from beaver_jax.models import saving
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.models import weights as weights_lib

CheckpointError = weights_lib.CheckpointError
Params = weights_lib.Params
Place = weights_lib.Place
Path = weights_lib.Path

# Modules of a score model's head: safe-rlhf's, and that of a classifier.
HEADS = ('score_head', 'score')
# Leaves of our modules as theirs are called.
LEAVES = {
    'kernel': 'weight',
    'scale': 'weight',
    'embedding': 'weight',
    'bias': 'bias',
}
NORMALIZER = ('normalizer.mean', 'normalizer.var', 'normalizer.count')


def entries(
    config: config_lib.TransformerConfig,
    abstract: Params,
    *,
    prefix: str = '',
    head: str = HEADS[0],
    stored: int | None = None,
) -> list[weights_lib.Entry]:
    """Where each parameter of a tree stands in a checkpoint of the config's family.

    Args:
      config: Of the decoder.
      abstract: Parameters or their shapes.
      prefix: Path of the decoder in the tree, such as 'backbone/'.
      head: What the checkpoint calls a score head.
      stored: Tokens in the checkpoint; None is as many as the config has.
    """
    family = families.FAMILIES[config.family]
    modules = {prefix + ours: theirs for ours, theirs in family.modules.items()}
    modules['score_head'] = head
    found = []
    for path, leaf in traverse_util.flatten_dict(abstract, sep='/').items():
        module, _, kind = path.rpartition('/')
        theirs = modules[module]
        parts = [ours for ours, name in modules.items() if name == theirs]
        stacked = '{}' in theirs
        layers = range(leaf.shape[0]) if stacked else range(1)
        vocab = None
        if module in (f'{prefix}embed', 'lm_head'):
            axis = 1 if kind == 'kernel' else 0
            vocab = (axis, stored or config.vocab_size, config.vocab_size)
        found.append(
            weights_lib.Entry(
                path=path,
                names=tuple(f'{theirs.format(i)}.{LEAVES[kind]}' for i in layers),
                stacked=stacked,
                transposed=kind == 'kernel' and not (family.conv1d and stacked),
                part=parts.index(module),
                parts=len(parts),
                groups=family.groups(config.num_heads),
                vocab=vocab,
            )
        )
    return found


def _lm_head(config: config_lib.TransformerConfig) -> list[str]:
    """Tensors of the projection to logits."""
    name = families.FAMILIES[config.family].modules['lm_head']
    return [f'{name}.weight', f'{name}.bias']


def abstract_params(model: Any) -> Params:
    """Shapes of a model's parameters, without making them."""
    return jax.tree.map(lambda shape: shape, _abstract_params(model))


@functools.cache  # a model is traced once; it is asked for whenever one is loaded
def _abstract_params(model: Any) -> Params:
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    return jax.eval_shape(model.init, jax.random.key(0), tokens, mask)['params']


def causal_lm(directory: Path, **changes: Any) -> transformer.CausalLM:
    """The language model of a directory, without its parameters.

    Args and errors: see `load_causal_lm`.
    """
    hf = hf_config.read(directory)
    if hf_config.is_score_model(hf):
        raise CheckpointError(
            f'{directory}: a score model ({hf["architectures"][0]}), not a causal LM; '
            'name a language model here.'
        )
    return transformer.CausalLM(backbone_config(directory, **changes))


def backbone_config(directory: Path, **changes: Any) -> config_lib.TransformerConfig:
    """The decoder of a directory's model, of either kind.

    Args and errors: see `load_causal_lm`.
    """
    config = hf_config.read_as(hf_config.decoder, directory)
    return dataclasses.replace(config, **changes)


def load_causal_lm(
    directory: Path,
    *,
    place: Place | None = None,
    param_dtype: str = 'float32',
    **changes: Any,
) -> tuple[transformer.CausalLM, Params]:
    """Loads a causal LM.

    Args:
      directory: Hugging Face directory with config.json and safetensors.
      place: Gives shardings for abstract parameters; None keeps them on one device.
      param_dtype: Type of the parameters.
      **changes: Fields of TransformerConfig to set, such as dtype='bfloat16'. Tokens
        of a larger vocab_size get the mean of the embeddings that there are.

    Raises:
      CheckpointError: See `hf_config.read` and `weights.load`; a field of config.json
        that is missing, or has a value that the decoder does not know; a score model.
    """
    model = causal_lm(directory, **changes)
    config, abstract = model.config, abstract_params(model)
    stored = backbone_config(directory).vocab_size
    params, _ = weights_lib.load(
        directory,
        entries(config, abstract, stored=stored),
        abstract,
        place=place,
        dtype=param_dtype,
        ignored=_lm_head(config) if config.tie_embeddings else (),
        prefix=families.FAMILIES[config.family].prefix,
    )
    return model, params


def score_model(directory: Path, **changes: Any) -> score.ScoreModel:
    """The score model of a directory, without its parameters.

    Args and errors: see `load_score_model`.
    """
    hf = hf_config.read(directory)
    if not hf_config.is_score_model(hf):
        raise CheckpointError(
            f'{directory}: a causal LM, not a score model; train one from it with '
            'configs/reward.py or configs/cost.py, or name a score model here.'
        )
    config = hf_config.read_as(hf_config.score, directory)
    backbone = dataclasses.replace(config.backbone, **changes)
    return score.ScoreModel(dataclasses.replace(config, backbone=backbone))


def load_score_model(
    directory: Path,
    *,
    place: Place | None = None,
    param_dtype: str = 'float32',
    **changes: Any,
) -> tuple[score.ScoreModel, Params, score.Normalizer]:
    """Loads a score model in safe-rlhf's layout, newer or older, or a classifier.

    Mean and variance in config.json are overwritten by the buffers, where present.

    Args and errors: see `load_causal_lm`.
    """
    hf = hf_config.read(directory)
    model = score_model(directory, **changes)
    config, backbone = model.config, model.config.backbone
    abstract = abstract_params(model)
    params, weights = weights_lib.load(
        directory,
        entries(
            backbone,
            abstract,
            prefix='backbone/',
            head=HEADS[hf_config.is_classifier(hf)],
            stored=hf_config.decoder(hf).vocab_size,
        ),
        abstract,
        place=place,
        dtype=param_dtype,
        wide=('score_head/',),  # it computes in float32, and may be trained on
        ignored=(*_lm_head(backbone), *NORMALIZER),
    )
    return model, params, _load_normalizer(directory, hf, weights, config.score_dim)


def _load_normalizer(directory, hf, weights, score_dim) -> score.Normalizer:
    fields = {'mean': hf.get('mean') or 0.0, 'var': hf.get('var') or 1.0, 'count': 0}
    for name in NORMALIZER:
        if name in weights.names():
            fields[name.removeprefix('normalizer.')] = weights.read(name)
    try:
        return score.Normalizer(
            mean=jnp.broadcast_to(jnp.asarray(fields['mean'], 'float32'), score_dim),
            var=jnp.broadcast_to(jnp.asarray(fields['var'], 'float32'), score_dim),
            count=jnp.asarray(fields['count'], 'int32').reshape(()),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f'{directory}: the normalizer does not fit score_dim={score_dim}: {error}'
        ) from error


def load_backbone(
    directory: Path,
    *,
    place: Place | None = None,
    param_dtype: str = 'float32',
    **changes: Any,
) -> tuple[config_lib.TransformerConfig, Params]:
    """Loads the decoder of a causal LM, without its output projection.

    Args and errors: see `load_causal_lm`; a score model's decoder is loaded as well.
    """
    config = backbone_config(directory, **changes)
    stored = backbone_config(directory).vocab_size
    abstract = abstract_params(transformer.Decoder(config))
    heads = (f'{head}.{leaf}' for head in HEADS for leaf in ('weight', 'bias'))
    params, _ = weights_lib.load(
        directory,
        entries(config, abstract, stored=stored),
        abstract,
        place=place,
        dtype=param_dtype,
        ignored=(*_lm_head(config), *NORMALIZER, *heads),
        prefix=families.FAMILIES[config.family].prefix,
    )
    return config, params


def export_names(
    config: config_lib.TransformerConfig, params: Params
) -> dict[str, np.ndarray]:
    """Parameters on the host as {Hugging Face name: array in PyTorch's orientation}.

    Also serves gradients and any other tree of the parameters' shape.

    Args:
      config: Of the decoder.
      params: Of a decoder, a causal LM or a score model.
    """
    prefix = 'backbone/' if 'backbone' in params else ''
    return weights_lib.named(entries(config, params, prefix=prefix), params)


def save_causal_lm(
    directory: Path,
    config: config_lib.TransformerConfig,
    params: Params,
    *,
    extra: Mapping[str, Any] | None = None,
    shard_bytes: int = saving.SHARD_BYTES,
) -> None:
    """Writes a directory that `transformers` loads.

    Args:
      directory: Made if it does not exist.
      config: The decoder.
      params: On the host or fully addressable; their type is the exported type.
      extra: Further fields of config.json, such as the special tokens' ids.
      shard_bytes: Size above which the weights are spread over several files.

    Raises:
      OSError: A file cannot be written.
    """
    family = families.FAMILIES[config.family]
    hf = family.to_hf(config) | {'architectures': [family.architecture]}
    tensors = export_names(config, params)
    _save(directory, hf | dict(extra or {}), tensors, shard_bytes)


def save_score_model(
    directory: Path,
    config: config_lib.ScoreConfig,
    params: Params,
    normalizer: score.Normalizer,
    *,
    extra: Mapping[str, Any] | None = None,
    shard_bytes: int = saving.SHARD_BYTES,
) -> None:
    """Writes a directory in safe-rlhf's layout.

    Args and errors: see `save_causal_lm`; `normalizer` goes into buffers and config.
    """
    family = families.FAMILIES[config.backbone.family]
    mean = np.asarray(normalizer.mean, np.float32)
    var = np.asarray(normalizer.var, np.float32)
    hf = family.to_hf(config.backbone) | {
        'architectures': [family.score_architecture],
        'score_type': config.score_type,
        'score_dim': config.score_dim,
        'score_bias': config.score_bias,
        'do_normalize': config.normalize,
        'normalizer_type': config.normalizer_type,
        'mean': mean.tolist(),
        'var': var.tolist(),
    }
    if config.momentum is not None:
        hf['momentum'] = config.momentum
    tensors = export_names(config.backbone, params) | {
        'normalizer.mean': mean,
        'normalizer.var': var,
        'normalizer.count': np.asarray(normalizer.count, np.int64).reshape(1),
    }
    _save(directory, hf | dict(extra or {}), tensors, shard_bytes)


def _save(directory, hf, tensors, shard_bytes) -> None:
    # Of most values: a head, or statistics of scores, may be wider.
    dtype = str(max(tensors.values(), key=lambda tensor: tensor.size).dtype)
    hf = hf | {'torch_dtype': dtype}
    saving.save(directory, hf, tensors, shard_bytes=shard_bytes)
