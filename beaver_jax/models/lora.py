"""Low-rank adapters (Hu et al., arXiv 2106.09685): y = x·W + s·(x·A)·B, W frozen.

Adapters are leaves `lora_a` and `lora_b` beside a kernel. They are a tree of their own,
the only one that learns, and are laid over the base inside the compiled step: the base
gets no gradient, no optimizer state, and may serve several models at once.
"""

from collections.abc import Mapping
import dataclasses
import math
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from beaver_jax.models import quantize

A, B = 'lora_a', 'lora_b'
Params = dict[str, Any]


class LoraError(ValueError):
    """Adapters that do not fit a model."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which linear maps are adapted, and how.

    Attributes:
      rank: r; 0 adapts nothing, and the whole model learns.
      alpha: The scale s is alpha / r.
      targets: A regular expression of whole module paths, such as
        'layers/attention/[qv]'.
      rslora: s is alpha / √r, so that it suits every rank (arXiv 2312.03732).
    """

    rank: int = 0
    alpha: float = 16.0
    targets: str = r'layers/(attention/[qkvo]|mlp/(gate|up|down))'
    rslora: bool = False

    def __post_init__(self):
        """Refuses values out of range."""
        if self.rank < 0:
            raise ValueError(f'rank={self.rank}; must not be negative.')
        if not 0 < self.alpha < math.inf:
            raise ValueError(f'alpha={self.alpha}; must be above 0 and finite.')
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(
                f'targets={self.targets!r} is no regular expression: {error}.'
            ) from error

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def init(config: LoraConfig, base: Params, key: jax.Array) -> Params:
    """Fresh adapters that change nothing yet: A as PEFT draws it, B zero.

    Args:
      config: With a rank above 0.
      base: Parameters or their shapes.
      key: Of A, uniform within ±1/√in.

    Returns:
      Float32 leaves: lora_a [(L,) in, r] and lora_b [(L,) r, out] of every target.

    Raises:
      LoraError: The expression matches no linear map; lists them.
    """
    linear = quantize.kernels(base)
    adapters = {}
    for i, module in enumerate(sorted(linear)):
        if not re.fullmatch(config.targets, module.removeprefix('backbone/')):
            continue
        *layers, inner, outer = linear[module]
        bound = 1 / math.sqrt(inner)
        adapters[f'{module}/{A}'] = jax.random.uniform(
            jax.random.fold_in(key, i),
            (*layers, inner, config.rank),
            minval=-bound,
            maxval=bound,
        )
        adapters[f'{module}/{B}'] = jnp.zeros((*layers, config.rank, outer))
    if not adapters:
        names = ', '.join(sorted(name.removeprefix('backbone/') for name in linear))
        raise LoraError(f'targets={config.targets!r} matches none of: {names}.')
    return traverse_util.unflatten_dict(adapters, sep='/')


def overlay(config: LoraConfig, base: Params, learning: Params) -> Params:
    """Parameters to apply a model to: the base, and what learns in and beside it.

    Without adapters, what learns is all there is. Costs nothing but s·B.
    """
    if not config.rank:
        return learning
    return _merge(base, _scaled(learning, config.scale))


def _scaled(tree: Params, scale: float) -> Params:
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(
        {path: leaf * scale if path[-1] == B else leaf for path, leaf in flat.items()}
    )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Params:
    merged = dict(base)
    for name, value in over.items():
        both = name in merged and isinstance(value, Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def fold(config: LoraConfig, base: Params, learning: Params) -> Params:
    """One plain model in float32: kernels W + s·A·B.

    In 16 bits most of what reinforcement learning changes would be rounded away. Of a
    quantized base W is what its few bits stand for, which the adapters have learnt on.
    """
    flat = traverse_util.flatten_dict(
        quantize.widened(overlay(config, base, learning), jnp.float32)
    )
    folded = {}
    for path, leaf in flat.items():
        if path[-1] in (A, B):
            continue
        a = flat.get((*path[:-1], A)) if path[-1] == 'kernel' else None
        leaf = leaf.astype(jnp.float32)
        if a is not None:
            leaf = leaf + jnp.matmul(a, flat[*path[:-1], B], precision='highest')
        folded[path] = leaf
    return traverse_util.unflatten_dict(folded)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A model over a frozen base: what it is applied to is what learns.

    Made inside a compiled function, where the base is an argument.
    """

    model: Any
    lora: LoraConfig
    base: Params

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the model's own, with the base under `variables['params']`."""
        params = overlay(self.lora, self.base, variables['params'])
        return self.model.apply({'params': params}, *args, **kwargs)


def plain(model: Any, params: Params) -> tuple[Any, Params]:
    """A model without a base beside it, and all its parameters."""
    if not isinstance(model, Adapted):
        return model, params
    return model.model, overlay(model.lora, model.base, params)
