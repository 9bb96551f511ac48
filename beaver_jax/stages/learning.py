"""What of a model learns: all of it, or low-rank adapters over a frozen base."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections

from beaver_jax.models import fingerprint as fingerprint_lib
from beaver_jax.models import hf
from beaver_jax.models import lora
from beaver_jax.stages import inputs


@dataclasses.dataclass(frozen=True)
class Learning:
    """What learns of a model, and what it stands on.

    Compiled functions take the base as an argument and hand it back to `over` or
    `overlay`; a constant of the program would be copied into it.

    Attributes:
      lora: With rank 0 the whole model learns.
      params: What learns: everything, or adapters and a score head.
      base: What does not; empty where everything learns.
    """

    lora: lora.LoraConfig
    params: hf.Params
    base: hf.Params

    def over(self, model: Any, base: hf.Params) -> Any:
        """The model, to be applied to what learns."""
        return lora.Adapted(model, self.lora, base) if self.lora.rank else model

    def overlay(self, base: hf.Params, params: hf.Params) -> hf.Params:
        """What the model itself is applied to."""
        return lora.overlay(self.lora, base, params)

    def folded(self, mesh: Mesh, params: hf.Params) -> hf.Params:
        """One plain model of the base and what was learnt."""
        if not self.lora.rank:
            return params

        def fold(base, params):
            return lora.fold(self.lora, base, params)

        shapes = jax.eval_shape(fold, self.base, params)
        shardings = inputs.placer(mesh)(shapes)
        return jax.jit(fold, out_shardings=shardings)(self.base, params)


def settings(section: ml_collections.ConfigDict, name: str) -> lora.LoraConfig:
    """The adapters that the section config.<name> asks for.

    Raises:
      InputError: A value out of range.
    """
    return inputs.settings(lora.LoraConfig, f'{name}.lora', section.lora)


def fingerprint(config: lora.LoraConfig, name: str, path: str) -> dict[str, str]:
    """That of the model which the adapters of config.<name> stand on, by its key.

    Empty without adapters: what learns in full stands on nothing.
    """
    if not config.rank:
        return {}
    return {
        f'{name}.init': fingerprint_lib.of(inputs.model_directory(f'{name}.init', path))
    }


def shapes(config: lora.LoraConfig, name: str, params: hf.Params) -> hf.Params:
    """Shapes of what learns of a model whose parameters have such shapes.

    Errors: see `of`.
    """
    if not config.rank:
        return params
    adapters = jax.eval_shape(_adapters(config, name, params), jax.random.key(0))
    head = {key: params[key] for key in ('score_head',) if key in params}
    return adapters | head


def of(
    config: lora.LoraConfig, name: str, mesh: Mesh, params: hf.Params, seed: int
) -> Learning:
    """Divides a model's parameters; a score head always learns.

    Raises:
      InputError: The adapters' expression matches no linear map of config.<name>.
    """
    if not config.rank:
        return Learning(config, params, {})
    key = jax.random.key(seed)
    init = _adapters(config, name, params)
    shardings = inputs.placer(mesh)(jax.eval_shape(init, key))
    adapters = jax.jit(init, out_shardings=shardings)(key)
    if 'score_head' in params:
        # A copy: what learns is donated, and a scorer may hold this head as well.
        head = jax.tree.map(lambda x: jnp.array(x, 'float32'), params['score_head'])
        adapters = adapters | {'score_head': head}
    return Learning(config, adapters, _frozen(params))


def _frozen(params: hf.Params) -> hf.Params:
    """What stays as it is under adapters."""
    return {key: leaf for key, leaf in params.items() if key != 'score_head'}


def _adapters(
    config: lora.LoraConfig, name: str, params: hf.Params
) -> Callable[[jax.Array], hf.Params]:
    """A key to fresh adapters, whose complaints name config.<name>."""
    base = _frozen(params)

    def init(key):
        try:
            return lora.init(config, base, key)
        except lora.LoraError as error:
            raise inputs.InputError(f'config.{name}.lora.{error}') from error

    return init
