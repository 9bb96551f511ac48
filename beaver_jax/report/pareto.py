"""Means of answers' scores with intervals, and the Pareto front of policies."""

from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple

from beaver_jax.report import files

# Of the normal distribution, 97.5% lies below.
_QUANTILE = statistics.NormalDist().inv_cdf(0.975)


class Mean(NamedTuple):
    """A mean, and the half of its 95% interval; NaN where it has none."""

    value: float
    half: float

    @property
    def interval(self) -> list[float] | None:
        """Its ends."""
        if not math.isfinite(self.half):
            return None
        return [self.value - self.half, self.value + self.half]


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent draws, by the normal approximation.

    The interval is mean ± 1.96·s/√n with s² = Σ(x - mean)²/(n - 1): over the prompts
    that might have been asked, for the answers were drawn once for each.

    Args:
      values: One a prompt; those that are not finite are left out.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Mean(math.nan, math.nan)
    middle = statistics.fmean(finite)
    if len(finite) < 2:
        return Mean(middle, math.nan)
    deviation = statistics.stdev(finite, middle)
    return Mean(middle, _QUANTILE * deviation / math.sqrt(len(finite)))


def measured(run: files.Run, policy: str, key: str) -> Mean:
    """A policy's mean reward or cost, with an interval where answers were kept."""
    if policy in run.answering:
        found = mean(run.scores(policy, key))
        if math.isfinite(found.value):
            return found
    value = run.policies.get(policy, {}).get(key)
    return Mean(math.nan if value is None else float(value), math.nan)


class Point(NamedTuple):
    """A policy in the plane of cost and reward."""

    run: str
    policy: str
    cost: Mean
    reward: Mean


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other dominates, by rising cost.

    One dominates another if its reward is no lower and its cost no higher, and one of
    the two is better. Of equal points none dominates the other. Points that are not
    finite are on no front.
    """
    finite = [
        point
        for point in points
        if math.isfinite(point.cost.value) and math.isfinite(point.reward.value)
    ]
    ordered = sorted(finite, key=lambda p: (p.cost.value, -p.reward.value))
    found: list[Point] = []
    for point in ordered:
        # Those before it cost no more: it has to be worth more, or be the same.
        best = found[-1] if found else None
        if (
            best is None
            or point.reward.value > best.reward.value
            or (point.reward.value, point.cost.value)
            == (best.reward.value, best.cost.value)
        ):
            found.append(point)
    return found
