"""Continuous batching that hands out tokens as they come, and lets rows go early.

For who waits at the other end: a server. Axes: C places of a step, K alternatives.
"""

from collections.abc import Collection
import dataclasses
from typing import Any, cast

import jax
import numpy as np

from beaver_jax import compilation
from beaver_jax import sharding
from beaver_jax.rollout import continuous
from beaver_jax.rollout import scheduler

_recent = jax.jit(continuous.recent, static_argnames='count')
_release = jax.jit(continuous.release, donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Tokens that a response has got since the last piece.

    Attributes:
      request: Whose.
      sample: Of n.
      tokens: [1 to C] int32, the EOS included.
      logps: [1 to C] float32.
      top_tokens: [1 to C, K] int32, the likeliest first; no columns without
        alternatives.
      top_logps: [1 to C, K] float32.
      ended: Nothing comes after it.
      truncated: Ended by its limit: no EOS.
    """

    request: scheduler.Request
    sample: int
    tokens: np.ndarray
    logps: np.ndarray
    top_tokens: np.ndarray
    top_logps: np.ndarray
    ended: bool
    truncated: bool


class Streamer(scheduler.Scheduler):
    """A scheduler that is called for a few steps at a time."""

    def __init__(
        self, params: Any, key: jax.Array, settings: continuous.Settings, steps: int
    ):
        """All slots are free and nobody waits.

        Args:
          params: Of `transformer.unstack`.
          key: Random key of all rows.
          settings: What is compiled.
          steps: The most tokens of a piece, but for its first, which has one more.

        Raises:
          ValueError: The slots have fewer places than that.
        """
        if not 0 < steps < settings.places:
            raise ValueError(
                f'steps={steps} of the {settings.places} places of a slot; use 1 to '
                f'{settings.places - 1}.'
            )
        super().__init__(params, key, settings)
        self._steps, self._count = steps, steps + 1
        self._shown = np.zeros(settings.slots, int)
        where = jax.tree.leaves(params)[0].sharding
        if isinstance(where, jax.sharding.NamedSharding):
            self._state = jax.device_put(
                self._state, sharding.replicated(cast(jax.sharding.Mesh, where.mesh))
            )

    def warm_up(self) -> None:
        """Compiles all programs, by reading prompts for no slot.

        The first passes also settle on which devices the state lies.
        """
        with compilation.Counter() as counter:
            while True:
                super().warm_up()
                _recent(self._state, count=self._count)
                nobody = np.zeros(self._settings.slots, bool)
                self._state = _release(self._state, nobody)
                if not counter.programs:
                    return
                counter.reset()

    def cancel(self, requests: Collection[scheduler.Request]) -> None:
        """Forgets requests, and frees the slots of those that are being answered."""
        gone = set(requests)
        for one in gone.intersection(self._waiting):
            self._waiting.remove(one)
        slots = [held is not None and held.request in gone for held in self._held]
        if any(slots):
            self._state = _release(self._state, np.array(slots))
        for slot in np.flatnonzero(slots).tolist():
            self._leave(slot)

    def stream(self) -> list[Piece]:
        """Fills free slots and samples a few tokens of each row; what they are."""
        self._go_on(self._steps)
        recent = sharding.to_host(_recent(self._state, count=self._count))
        self._column = int(recent.column)
        held = [slot for slot, one in enumerate(self._held) if one is not None]
        return [self._piece(slot, recent) for slot in held]

    def _piece(self, slot: int, recent: Any) -> Piece:
        held = self._held[slot]
        assert held is not None
        new = np.arange(self._shown[slot], recent.length[slot])
        # Of the last places the first is `count` before the column.
        first = held.start - self._column + self._count
        places = (first + new) % self._settings.places
        self._shown[slot] = recent.length[slot]
        ended = not recent.alive[slot]
        if ended:
            self._leave(slot)
        none = np.zeros((len(new), 0))
        return Piece(
            request=held.request,
            sample=held.sample,
            tokens=recent.tokens[slot, places],
            logps=recent.logps[slot, places],
            top_tokens=recent.top.tokens[slot, places] if recent.top else none,
            top_logps=recent.top.logps[slot, places] if recent.top else none,
            ended=ended,
            truncated=ended and not bool(recent.done[slot]),
        )

    def _leave(self, slot: int) -> None:
        self._held[slot], self._shown[slot] = None, 0
