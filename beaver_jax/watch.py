"""Whether a policy diverges, judged by the rows of metrics.jsonl alone.

Three signs, each in the mean of the last few rows: the KL to the reference is above a
bound, the entropy is near zero, the reward has fallen far below its best. A fold over
rows, so that a resumed run, which reads the rows of before, judges as one left alone.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import NamedTuple

THEN = ('warn', 'stop', 'ignore')
KL, ENTROPY = 'train/kl_divergence', 'train/entropy'
REWARD, SPREAD = 'train/reward', 'train/reward_std'

Row = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a policy may do; `config.watch`. A bound of 0 is none.

    Attributes:
      then: What follows a sign of divergence: 'warn', 'stop' or 'ignore'.
      kl: Largest KL of a response to the reference, in nats.
      entropy: Smallest entropy of a token, in nats.
      reward_drop: Largest fall of the reward below its best, in standard deviations
        of the responses' rewards at the start.
      window: Rows whose mean is judged.

    Raises:
      ValueError: A value out of range; the message begins with FIELD=VALUE.
    """

    then: str
    kl: float
    entropy: float
    reward_drop: float
    window: int

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.then not in THEN:
            raise ValueError(f'then={self.then!r}; known: {", ".join(THEN)}.')
        for name in ('kl', 'entropy', 'reward_drop'):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f'{name}={value}; use a number from 0, 0 for none.')
        if self.window < 1:
            raise ValueError(f'window={self.window}; must be at least 1.')


class Best(NamedTuple):
    """The highest mean reward of a window up to now."""

    step: int  # of its last row
    reward: float


class History(NamedTuple):
    """What is known after some rows."""

    rows: tuple[Row, ...] = ()  # the last ones that are whole, `window` at most
    spread: float = math.nan  # mean standard deviation of rewards in the first window
    best: Best = Best(0, -math.inf)
    signs: Mapping[str, str] = {}  # of divergence, now: a clause by kind
    told: Mapping[str, int] = {}  # rows since the last one with that kind of sign

    @property
    def sound(self) -> int:
        """The step of the last row before those that are judged."""
        return int(self.rows[0]['step']) - 1 if self.rows else 0


def observe(history: History, row: Row, bounds: Bounds) -> History:
    """The history with one more row.

    Args:
      history: Of the rows before.
      row: With 'step'. One that lacks a metric, or has one that is not finite, is of
        no account: `config.max_bad_steps` is for those.
      bounds: What is judged by.
    """
    values = [row.get(name, math.nan) for name in (KL, ENTROPY, REWARD, SPREAD)]
    if bounds.then == 'ignore' or not all(map(math.isfinite, values)):
        return history
    rows = (*history.rows, row)[-bounds.window :]
    history = history._replace(rows=rows)
    if len(rows) < bounds.window:
        return history
    means = {name: _mean(rows, name) for name in (KL, ENTROPY, REWARD, SPREAD)}
    if math.isnan(history.spread):
        history = history._replace(spread=means[SPREAD])
    if means[REWARD] > history.best.reward:
        history = history._replace(best=Best(int(row['step']), means[REWARD]))
    signs = _signs(history, means, bounds)
    quiet = {kind: count + 1 for kind, count in history.told.items()}
    told = {kind: count for kind, count in quiet.items() if count < bounds.window}
    return history._replace(signs=signs, told=told | dict.fromkeys(signs, 0))


def _mean(rows: tuple[Row, ...], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _signs(history: History, means: Row, bounds: Bounds) -> dict[str, str]:
    found = {}
    kl, entropy, reward = means[KL], means[ENTROPY], means[REWARD]
    if bounds.kl and kl > bounds.kl:
        found['kl'] = (
            f'the KL to the reference is {kl:.1f} nats, above '
            f'config.watch.kl={bounds.kl:g}'
        )
    if entropy < bounds.entropy:
        found['entropy'] = (
            f'the entropy is {entropy:.2g} nats, below '
            f'config.watch.entropy={bounds.entropy:g}'
        )
    fall = history.best.reward - reward
    if bounds.reward_drop and fall > bounds.reward_drop * history.spread > 0:
        found['reward'] = (
            f'the reward is {reward:.3g}, {fall / history.spread:.1f} standard '
            f'deviations below its {history.best.reward:.3g} of step '
            f'{history.best.step}, more than '
            f'config.watch.reward_drop={bounds.reward_drop:g}'
        )
    return found


def new(before: History, now: History) -> list[str]:
    """What is to be told: signs that begin an episode.

    It ends once a whole window of rows is without them: what hovers about a bound is
    told once.
    """
    return [text for kind, text in now.signs.items() if kind not in before.told]
