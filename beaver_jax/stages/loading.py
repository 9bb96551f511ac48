"""The models of a config, loaded or made: parameters in their shardings."""

import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from beaver_jax import sharding
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import config as model_lib
from beaver_jax.models import hf
from beaver_jax.models import quantize
from beaver_jax.models import score
from beaver_jax.models import transformer
from beaver_jax.stages import inputs


def causal_lm(
    mesh: Mesh,
    section: ml_collections.ConfigDict,
    name: str,
    *,
    frozen: bool = False,
    **changes: Any,
) -> tuple[transformer.CausalLM, hf.Params]:
    """Loads the language model of a config section; `changes` are of its decoder."""
    model, params = hf.load_causal_lm(
        inputs.model_directory(f'{name}.init', section.init),
        place=inputs.placer(mesh),
        param_dtype=inputs.param_dtype(section, frozen=frozen),
        **inputs.compute(section, name),
        **changes,
    )
    return model, few_bits(mesh, section, name, params) if frozen else params


def causal_lm_of(
    section: ml_collections.ConfigDict, name: str, **changes: Any
) -> transformer.CausalLM:
    """The language model of `causal_lm`, without its parameters."""
    found = inputs.model_directory(f'{name}.init', section.init)
    return hf.causal_lm(found, **inputs.compute(section, name), **changes)


def to_talk_with(
    path: str, dtype: str
) -> tuple[inputs.Tokenizer, transformer.CausalLM, hf.Params]:
    """A language model outside of any run, over as many devices as its axes allow.

    Args:
      path: A stage's directory or a Hugging Face directory.
      dtype: One of `inputs.DTYPES`, of parameters and computation.

    Raises:
      ValueError: The path holds no language model, or a tokenizer that is not its own.
    """
    found = directory(path)
    tokenizer = tokenizer_lib.load(found)
    model, params = hf.load_causal_lm(found, **_everywhere(dtype))
    inputs.check_tokenizer(tokenizer, model.config, path)
    return tokenizer, model, params


def to_score_with(
    path: str, dtype: str
) -> tuple[inputs.Tokenizer, score.ScoreModel, hf.Params]:
    """A score model outside of any run; arguments and errors as in `to_talk_with`."""
    found = directory(path, scores=True)
    tokenizer = tokenizer_lib.load(found)
    model, params, _ = hf.load_score_model(found, **_everywhere(dtype))
    inputs.check_tokenizer(tokenizer, model.config.backbone, path)
    return tokenizer, model, params


def directory(path: str, *, scores: bool = False) -> pathlib.Path:
    """The Hugging Face directory of the language or the score model that `path` names.

    Raises:
      ValueError: There is none, or one of the other kind.
    """
    found = inputs.find_model(path)
    if found is None:
        raise inputs.InputError(f'{path!r} {inputs.no_model(path)}')
    inputs.check_kind(repr(path), found, scores=scores)
    return found


def _everywhere(dtype: str) -> dict[str, Any]:
    dtype = inputs.resolved(dtype)
    return {
        'place': _place,
        'param_dtype': dtype,
        'dtype': dtype,
        'vocab_multiple': jax.device_count(),
    }


def _place(abstract: hf.Params) -> Any:
    """Shardings over as many devices as a model's axes can be cut for."""
    devices = jax.devices()
    for count in range(len(devices), 1, -1):
        mesh = sharding.make_mesh(data=1, tensor=count, devices=devices[:count])
        try:
            return inputs.placer(mesh)(abstract)
        except ValueError:  # an axis that this many devices do not divide
            continue
    return inputs.placer(sharding.make_mesh(data=1, devices=devices[:1]))(abstract)


def score_model(
    mesh: Mesh,
    section: ml_collections.ConfigDict,
    name: str,
    *,
    frozen: bool = False,
    **changes: Any,
) -> tuple[score.ScoreModel, hf.Params, score.Normalizer]:
    """Loads the score model of a config section; `changes` are of its decoder."""
    model, params, normalizer = hf.load_score_model(
        inputs.model_directory(f'{name}.init', section.init),
        place=inputs.placer(mesh),
        param_dtype=inputs.param_dtype(section, frozen=frozen),
        **inputs.compute(section, name),
        **changes,
    )
    if frozen:
        params = few_bits(mesh, section, name, params)
    return model, params, jax.device_put(normalizer, sharding.replicated(mesh))


def few_bits(
    mesh: Mesh, section: ml_collections.ConfigDict, name: str, params: hf.Params
) -> hf.Params:
    """Frozen parameters as config.<name>.quantize says; consumes those given."""
    if section.quantize == 'none':
        return params

    kind = section.quantize
    try:
        shapes = jax.eval_shape(lambda p: quantize.quantized(p, kind), params)
    except ValueError as error:
        raise inputs.InputError(f'config.{name}.quantize={kind!r}: {error}') from error
    shardings = inputs.placer(mesh)(shapes)

    # One kernel at a time, of which nothing is left then.
    def convert(leaf, shardings):
        compiled = jax.jit(
            quantize.quantize, static_argnames='kind', out_shardings=shardings
        )
        few = jax.block_until_ready(compiled(leaf, kind=kind))
        leaf.delete()
        return few

    return quantize.replaced(params, convert, shardings)


def new_causal_lm(
    section: ml_collections.ConfigDict, vocab_size: int
) -> transformer.CausalLM:
    """A language model of the sizes in `section.scratch`, without parameters."""
    config = inputs.settings(
        model_lib.TransformerConfig,
        'model.scratch',
        section.scratch,
        vocab_size=vocab_size,
        **inputs.compute(section, 'model'),
    )
    return transformer.CausalLM(config)


def init_params(mesh: Mesh, model: Any, key: jax.Array) -> hf.Params:
    """Fresh parameters, born in their shardings."""
    tokens = jax.numpy.zeros((1, 2), jax.numpy.int32)
    mask = jax.numpy.ones((1, 2), bool)
    shardings = inputs.placer(mesh)(hf.abstract_params(model))

    def init(key):
        return model.init(key, tokens, mask)['params']

    return jax.jit(init, out_shardings=shardings)(key)


def init_head(
    mesh: Mesh, model: score.ScoreModel, decoder: hf.Params, key: jax.Array
) -> hf.Params:
    """Parameters of a score model: a trained decoder under a fresh head, bias 0."""
    config = model.config
    shape = (config.backbone.hidden_width, config.score_dim)
    head = {'kernel': config.backbone.init_std * jax.random.normal(key, shape)}
    if config.score_bias:
        head['bias'] = jax.numpy.zeros(config.score_dim)
    params = {'backbone': decoder, 'score_head': head}
    return jax.device_put(params, inputs.placer(mesh)(params))
