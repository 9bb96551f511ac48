"""The host's side of continuous batching: who waits, who is in which slot.

Axes: B slots, R rows of an admission, n samples of a prompt, N prompts, P prompt,
G response, S places.
"""

import collections
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.rollout import continuous
from beaver_jax.rollout import sampling

_USUAL = sampling.Sampler()
_empty = jax.jit(continuous.empty, static_argnames='settings')
_admit = jax.jit(continuous.admit, static_argnames='settings', donate_argnums=1)
_advance = jax.jit(continuous.advance, static_argnames='settings', donate_argnums=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A prompt that waits for its n responses.

    Attributes:
      number: Decides its random numbers, as `types.PromptBatch.row` does.
      tokens: Of the prompt, [at most P] without padding.
      limit: The most tokens of a response, 1 to G.
      sampler: Its own, where settings.sampler is None.
      shows: Whether it wants settings.alternatives; without them they may be zeros.
    """

    number: int
    tokens: np.ndarray
    limit: int
    sampler: sampling.Sampler = _USUAL
    shows: bool = False


@dataclasses.dataclass(frozen=True)
class Response:
    """A response that has ended."""

    request: Request
    sample: int  # of n
    tokens: np.ndarray  # [length] int32, the EOS included
    logps: np.ndarray  # [length] float32
    truncated: bool  # cut by its limit: no EOS


@dataclasses.dataclass(frozen=True)
class _Held:
    request: Request
    sample: int
    start: int  # column of the first token


class Scheduler:
    """Slots of one compiled decoder, and a queue before them.

    With several processes all make the same calls.
    """

    def __init__(self, params: Any, key: jax.Array, settings: continuous.Settings):
        """All slots are free and nobody waits.

        Args:
          params: Of `transformer.unstack`.
          key: Random key of all rows.
          settings: What is compiled.
        """
        self._params, self._key, self._settings = params, key, settings
        self._state = _empty(settings=settings)
        self._held: list[_Held | None] = [None] * settings.slots
        self._waiting: collections.deque[Request] = collections.deque()
        self._column = 1

    def warm_up(self) -> None:
        """Compiles all programs, by reading prompts for no slot."""
        for length in self._settings.prompt_lengths:
            self._read([], length, [])
        self._state = _advance(self._params, self._state, 0, 0, settings=self._settings)
        self._harvest()

    def submit(self, requests: Sequence[Request]) -> None:
        """Puts prompts at the end of the queue."""
        self._waiting.extend(requests)

    @property
    def idle(self) -> bool:
        """Nobody waits and all slots are free."""
        return not self._waiting and self._free() == self._settings.slots

    def step(self, steps: int | None = None) -> list[Response]:
        """Fills free slots, then samples until more can be filled.

        Args:
          steps: Tokens at most; None for no bound.

        Returns:
          Responses that have ended, by slot.
        """
        self._go_on(self._settings.response_length if steps is None else steps)
        return self._harvest()

    def _go_on(self, steps: int) -> None:
        self._fill()
        wanted = self._settings.slots
        if self._waiting:
            wanted = self._free() + self._next() * self._settings.samples_per_prompt
        self._state = _advance(
            self._params, self._state, steps, wanted, settings=self._settings
        )

    def _free(self) -> int:
        return sum(held is None for held in self._held)

    def _next(self) -> int:
        """How many prompts are read next: as many as an admission holds, or all."""
        return min(self._settings.admitted, len(self._waiting))

    def _fill(self) -> None:
        copies = self._settings.samples_per_prompt
        while self._waiting and self._free() >= self._next() * copies:
            requests = [self._waiting.popleft() for _ in range(self._next())]
            longest = max(len(one.tokens) for one in requests)
            length = next(n for n in self._settings.prompt_lengths if n >= longest)
            free = [slot for slot, held in enumerate(self._held) if held is None]
            slots = free[: len(requests) * copies]
            self._read(requests, length, slots)
            samples = [(one, j) for one in requests for j in range(copies)]
            for slot, (one, j) in zip(slots, samples, strict=True):
                self._held[slot] = _Held(one, j, self._column - 1)

    def _read(self, requests: list[Request], length: int, slots: list[int]) -> None:
        """Admits prompts, padded to a length and by empty rows to an admission."""
        settings = self._settings
        count, copies = settings.admitted, settings.samples_per_prompt
        tokens: Any = np.full((count, length), settings.pad_id, np.int32)
        mask: Any = np.zeros((count, length), bool)
        row: Any = np.zeros(count, np.int32)
        target = np.full(count * copies, settings.slots, np.int32)
        limits = np.zeros(count * copies, np.int32)
        for i, request in enumerate(requests):
            tokens[i, length - len(request.tokens) :] = request.tokens
            mask[i, length - len(request.tokens) :] = True
            row[i] = request.number
            limits[i * copies : (i + 1) * copies] = request.limit
        target[: len(slots)] = slots
        self._state = _admit(
            self._params,
            self._state,
            types.PromptBatch(tokens, mask, row),
            target,
            limits,
            self._key,
            self._by_row(requests),
            settings=settings,
        )

    def _by_row(self, requests: list[Request]) -> sampling.ByRow | None:
        settings = self._settings
        if settings.sampler is not None:
            return None
        nobody = Request(0, np.zeros(0, np.int32), 0)
        rows = [*requests, *[nobody] * (settings.admitted - len(requests))]
        rows = [one for one in rows for _ in range(settings.samples_per_prompt)]
        return sampling.ByRow.of(
            [one.sampler for one in rows],
            [one.shows for one in rows],
            settings.alternatives,
        )

    def _harvest(self) -> list[Response]:
        state, places = self._state, self._settings.places
        alive, column = sharding.to_host((state.alive(), state.column))
        self._column = int(column)
        ended = [
            slot
            for slot, held in enumerate(self._held)
            if held is not None and not alive[slot]
        ]
        if not ended:
            return []
        tokens, logps, length, done = sharding.to_host(
            (state.tokens, state.logps, state.length, state.done)
        )
        found = []
        for slot in ended:
            held = self._held[slot]
            assert held is not None
            columns = (held.start + np.arange(length[slot])) % places
            found.append(
                Response(
                    held.request,
                    held.sample,
                    tokens[slot, columns],
                    logps[slot, columns],
                    not done[slot],
                )
            )
            self._held[slot] = None
        return found


def respond(
    params: Any,
    prompts: types.PromptBatch,
    key: jax.Array,
    *,
    settings: continuous.Settings,
) -> types.Samples:
    """`generate.generate` by continuous batching, on the host.

    The rows are those that it gives for the same key, but for the order of summation.

    Args:
      params: Of `transformer.unstack`.
      prompts: N prompts, left padded to at most P; as NumPy.
      key: Random key.
      settings: What is compiled.

    Returns:
      Samples of N·n rows as NumPy, those of a prompt side by side.
    """
    width, copies = settings.response_length, settings.samples_per_prompt
    requests = {
        Request(int(number), tokens[mask], width): index
        for index, (number, tokens, mask) in enumerate(
            zip(prompts.row, prompts.tokens, prompts.mask, strict=True)
        )
    }
    scheduler = Scheduler(params, key, settings)
    # Prompts of one length are read together.
    scheduler.submit(sorted(requests, key=lambda one: len(one.tokens)))
    rows = len(requests) * copies
    tokens: Any = np.full((rows, width), settings.pad_id, np.int32)
    mask: Any = np.zeros((rows, width), bool)
    logps: Any = np.zeros((rows, width), np.float32)
    truncated: Any = np.zeros(rows, bool)
    while not scheduler.idle:
        for one in scheduler.step():
            row, length = requests[one.request] * copies + one.sample, len(one.tokens)
            tokens[row, :length], logps[row, :length] = one.tokens, one.logps
            mask[row, :length], truncated[row] = True, one.truncated

    def after_prompts(prompts: Any, responses: Any) -> Any:
        return np.concatenate([np.repeat(prompts, copies, 0), responses], axis=1)

    return types.Samples(
        tokens=after_prompts(prompts.tokens, tokens),
        mask=after_prompts(prompts.mask, mask),
        response_mask=mask,
        logps=logps,
        truncated=truncated,
    )
