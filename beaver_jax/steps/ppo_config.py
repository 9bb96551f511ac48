"""Coefficients of PPO and PPO-Lagrangian."""

from collections.abc import Mapping
import dataclasses

TRUNCATIONS = ('terminal', 'bootstrap')


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Coefficients of the update.

    Attributes:
      kl_coeff: κ, weight of the KL penalty; not negative.
      clip_ratio: ε of the probability ratio.
      clip_score: Bound of token rewards and costs.
      clip_value: ε_v of the critics.
      gamma: Discount.
      gae_lambda: λ of GAE.
      ptx_coeff: Weight of the supervised loss; not negative.
      temperature: That of sampling.
      epochs: Passes over a rollout batch.
      minibatches: Updates per pass, over shuffled rows.
      parts: Backward passes per update.
      truncation: What stands at the end of a response cut by length: 'terminal' its
        score, as in the original, or 'bootstrap' the critic's value and no score.
      per_token_mean: Losses are one mean over all tokens, not per row first.
      shaping: Fixed multipliers of costs that are subtracted from the reward.
    """

    kl_coeff: float = 0.02
    clip_ratio: float = 0.2
    clip_score: float = 50.0
    clip_value: float = 5.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    ptx_coeff: float = 0.0
    temperature: float = 1.0
    epochs: int = 1
    minibatches: int = 1
    parts: int = 1
    truncation: str = 'terminal'
    per_token_mean: bool = False
    shaping: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def updates(self) -> int:
        """Updates of a rollout batch."""
        return self.epochs * self.minibatches

    def __post_init__(self):
        """Refuses values out of range."""
        for name in ('kl_coeff', 'ptx_coeff'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name}={getattr(self, name)}; must not be negative.')
        for name in ('clip_ratio', 'clip_score', 'clip_value', 'temperature'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name}={getattr(self, name)}; must be above 0.')
        for name in ('gamma', 'gae_lambda'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name}={getattr(self, name)}; must be in [0, 1].')
        for name in ('epochs', 'minibatches', 'parts'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)}; must be at least 1.')
        if self.truncation not in TRUNCATIONS:
            raise ValueError(f'truncation={self.truncation!r}; known: {TRUNCATIONS}.')
