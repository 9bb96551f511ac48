"""Optimizer chains from plain settings."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import optax

SCHEDULES = ('constant', 'cosine', 'linear')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, a schedule and clipping.

    Attributes:
      learning_rate: Peak, above 0.
      schedule: 'constant', 'cosine' (to 0) or 'linear' (to 0), after the warm-up.
      warmup_ratio: Share of the steps over which the rate rises from 0, in [0, 1].
      weight_decay: Not negative; not applied to biases and norms.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
      clip_norm: Bound of the gradient's global norm; None for none.
    """

    learning_rate: float
    schedule: str = 'cosine'
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float | None = 1.0

    def __post_init__(self):
        """Refuses values out of range."""
        if self.schedule not in SCHEDULES:
            raise ValueError(f'schedule={self.schedule!r}; known: {SCHEDULES}.')
        if not self.learning_rate > 0:
            raise ValueError(f'learning_rate={self.learning_rate}; must be above 0.')
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f'warmup_ratio={self.warmup_ratio}; must be in [0, 1].')
        if not self.weight_decay >= 0:
            raise ValueError(f'weight_decay={self.weight_decay}; must not be negative.')
        for name in ('b1', 'b2'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)}; must be in [0, 1).')
        if not self.eps > 0:
            raise ValueError(f'eps={self.eps}; must be above 0.')
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f'clip_norm={self.clip_norm}; must be above 0.')


def schedule(config: OptimizerConfig, steps: int) -> Callable[[Any], Any]:
    """Returns the learning rate as a function of the update's index, for `steps`."""
    peak, warmup = config.learning_rate, round(config.warmup_ratio * steps)
    rest = max(steps - warmup, 1)
    after: dict[str, Callable[[], Any]] = {
        'constant': lambda: optax.constant_schedule(peak),
        'cosine': lambda: optax.cosine_decay_schedule(peak, rest),
        'linear': lambda: optax.linear_schedule(peak, 0.0, rest),
    }
    if not warmup:
        return after[config.schedule]()
    # From peak/(warmup + 1), not 0: a first update of rate 0 would be lost.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after[config.schedule]()], [warmup])


def decay_mask(params: Any) -> Any:
    """True at matrices: weight decay spares biases and norms.

    Layers are stacked, so a bias or scale of a layer has two axes; names decide.
    """

    def decays(path, leaf):
        del leaf
        return path[-1].key in ('kernel', 'embedding', 'lora_a', 'lora_b')

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, AdamW with decoupled decay (arXiv 1711.05101), non-finite guard.

    Args:
      config: The settings.
      steps: Updates in the whole run, for the schedule.
    """
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    # Skipped however many there are: it is the training loop that ends a run.
    return optax.apply_if_finite(optax.chain(clip, adamw), 2**31 - 1)
