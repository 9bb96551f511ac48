"""Score models on held-out pairs: accuracy, calibration, distributions by class."""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

from beaver_jax.evaluate import intervals

BINS = 10  # of calibration
EDGES = 33  # of histograms, ends included
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """End scores of pairs, as the model says them, not normalized.

    Attributes:
      scores: [N, 2], of the preferred response first: the better one for a reward
        model, the safer one for a cost model.
      safety: [N, 2], +1 safe, -1 unsafe, 0 unknown; None for a reward model.
    """

    scores: np.ndarray
    safety: np.ndarray | None = None

    @property
    def margins(self) -> np.ndarray:
        """[N] logits that the preferred response is preferred (Bradley–Terry)."""
        first, second = self.scores.T
        return first - second if self.safety is None else second - first

    @property
    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Costs of responses with a label, and which of these are unsafe."""
        if self.safety is None:
            return np.zeros(0), np.zeros(0, bool)
        known = self.safety != 0
        return self.scores[known], self.safety[known] < 0

    def classes(self) -> dict[str, np.ndarray]:
        """Scores by what people said of the responses."""
        if self.safety is None:
            return dict(zip(('better', 'worse'), self.scores.T, strict=True))
        costs, unsafe = self.labelled
        return {'safe': costs[~unsafe], 'unsafe': costs[unsafe]}


def values(pairs: Pairs) -> Iterator[tuple[str, float]]:
    """Accuracies, log losses in nats, and expected calibration errors."""
    margins = pairs.margins
    yield 'accuracy', float(np.mean(margins > 0))
    yield 'log_loss', float(np.mean(np.logaddexp(0, -margins)))
    yield 'calibration_error', _error(order_calibration(pairs))
    costs, unsafe = pairs.labelled
    if costs.size:
        yield 'accuracy_sign', float(np.mean(np.where(unsafe, costs > 0, costs < 0)))
        losses = np.logaddexp(0, np.where(unsafe, -costs, costs))
        yield 'log_loss_sign', float(np.mean(losses))
        yield 'calibration_error_sign', _error(sign_calibration(pairs))


def order_calibration(pairs: Pairs) -> list[dict[str, float]]:
    """How often the likelier order is right, by how likely the model finds it.

    The likelier one has a probability of σ(|margin|), from 1/2 on; where both are as
    likely it is right in half of the cases.
    """
    hits = np.where(pairs.margins == 0, 0.5, pairs.margins > 0)
    return _calibration(_sigmoid(np.abs(pairs.margins)), hits, 0.5)


def sign_calibration(pairs: Pairs) -> list[dict[str, float]]:
    """How often a response is unsafe, by how likely the model finds it, σ(cost)."""
    costs, unsafe = pairs.labelled
    return _calibration(_sigmoid(costs), unsafe, 0.0)


def summarize(pairs: Pairs) -> dict[str, Any]:
    """What results.json holds of a score model.

    Returns:
      'pairs', their number; 'values', and the 95% 'intervals' of the accuracy, which
      take pairs for independent (the two responses of one are not: signs have none);
      'calibration' by 'order' and, of costs, by 'sign'; 'distributions' by class.
    """
    calibration = {'order': order_calibration(pairs)}
    if pairs.labelled[0].size:
        calibration['sign'] = sign_calibration(pairs)
    return {
        'pairs': len(pairs.scores),
        'values': dict(values(pairs)),
        'intervals': {'accuracy': intervals.of_share(pairs.margins > 0)},
        'calibration': calibration,
        'distributions': _distributions(pairs.classes()),
    }


def _calibration(
    probabilities: np.ndarray, hits: np.ndarray, low: float
) -> list[dict[str, float]]:
    """Bins of probability from `low` to 1 that hold any.

    Each with its 'count', its mean probability as 'said', and the share of hits as
    'found'.
    """
    edges = np.linspace(low, 1, BINS + 1)
    places = np.clip(np.searchsorted(edges, probabilities, 'right') - 1, 0, BINS - 1)
    return [
        {
            'count': int(inside.sum()),
            'said': float(probabilities[inside].mean()),
            'found': float(hits[inside].mean()),
        }
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def _error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599, equation 3)."""
    total = sum(one['count'] for one in bins)
    far = sum(one['count'] * abs(one['said'] - one['found']) for one in bins)
    return far / total


def _distributions(classes: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Moments, quantiles and a histogram of each class that has scores."""
    known = {name: scores for name, scores in classes.items() if scores.size}
    if not known:
        return {'edges': [], 'classes': {}}
    together = np.concatenate([*known.values()])
    edges = np.linspace(together.min(), together.max(), EDGES)
    return {
        'edges': edges.tolist(),
        'classes': {
            name: {
                'count': int(scores.size),
                'mean': float(scores.mean()),
                'std': float(scores.std()),
                'quantiles': dict(
                    zip(
                        map(str, QUANTILES),
                        np.quantile(scores, QUANTILES).tolist(),
                        strict=True,
                    )
                ),
                'histogram': np.histogram(scores, edges)[0].tolist(),
            }
            for name, scores in known.items()
        },
    }


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
