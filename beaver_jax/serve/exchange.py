"""A request's answers, on the side of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
import dataclasses
import hashlib
import secrets

from beaver_jax.rollout import sampling
from beaver_jax.serve import answers
from beaver_jax.serve import engine as engine_lib
from beaver_jax.serve import errors
from beaver_jax.serve import models
from beaver_jax.serve import schemas
from beaver_jax.serve import texts


@dataclasses.dataclass(frozen=True)
class Question:
    """What a request asks of a model.

    Attributes:
      model: Who is asked.
      prompts: Ids.
      frames: Of the answers to each.
      body: Of the request.
      limit: The most tokens of an answer.
      shows: Whether tokens are wanted.
    """

    model: models.Model
    prompts: Sequence[tuple[int, ...]]
    frames: Sequence[texts.Frame]
    body: schemas.ChatRequest | schemas.CompletionRequest
    limit: int
    shows: bool

    def check(self) -> None:
        """Refuses what is over the server's limits.

        Raises:
          ApiError: It is.
        """
        limits, count = self.model.limits, len(self.prompts) * self.body.n
        if count > limits.choices:
            raise errors.ApiError(
                400,
                f'{count} answers to a request; at most {limits.choices}.',
                param='n',
            )
        if self.limit > limits.answer_tokens:
            raise errors.ApiError(
                400,
                f'max_tokens={self.limit}; at most {limits.answer_tokens}.',
                param='max_tokens',
            )
        for prompt in self.prompts:
            if len(prompt) > limits.prompt_tokens:
                raise errors.ApiError(
                    400,
                    f'The prompt has {len(prompt)} tokens; at most '
                    f'{limits.prompt_tokens}.',
                    code='context_length_exceeded',
                )


class Exchange:
    """The answers to a question, numbered: n to each prompt."""

    def __init__(self, question: Question):
        """Hands the question to the engine.

        Raises:
          ApiError: It is over a limit, too many wait, or the server ends.
        """
        question.check()
        self.question = question
        self.count = len(question.prompts) * question.body.n
        self._engine = question.model.engine
        self._deltas: asyncio.Queue[tuple[int, answers.Delta]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        seconds = question.model.limits.seconds
        self._seconds, self._deadline = seconds, self._loop.time() + seconds
        self._jobs = self._make_jobs()
        try:
            self._engine.submit(self._jobs)
        except engine_lib.BusyError as error:
            raise errors.busy(
                f'The model has {self._engine.open} answers to give; try again later.'
            ) from error
        except engine_lib.ClosedError as error:
            raise (
                errors.gone('The model') if self._engine.broken else errors.closed()
            ) from error

    async def deltas(self) -> AsyncIterator[tuple[int, answers.Delta]]:
        """What answers get, by their numbers, until all are finished.

        Whatever ends it early, the engine then forgets the jobs.

        Raises:
          ApiError: The time is over, or the engine failed.
        """
        left = self.count
        try:
            while left:
                index, delta = await self._next()
                if delta.finish == 'error':
                    raise errors.broken()
                left -= delta.finish is not None
                yield index, delta
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Lets the engine forget what is unfinished."""
        self._engine.cancel(self._jobs)

    async def _next(self) -> tuple[int, answers.Delta]:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._deltas.get()
        except TimeoutError as error:
            raise errors.late(self._seconds) from error

    def _make_jobs(self) -> list[answers.Job]:
        question, body = self.question, self.question.body
        chance = body.seed is None
        seed = secrets.randbits(63) if body.seed is None else body.seed
        sampler = sampling.Sampler(
            body.temperature, body.top_k, body.top_p, body.repetition_penalty
        )
        return [
            answers.Job(
                tokens=prompt,
                # With a seed given, an answer does not depend on its prompt's place.
                number=_number(seed, number * body.n + i if chance else i),
                limit=question.limit,
                sampler=sampler,
                frame=frame,
                stop=body.stops,
                shows=question.shows,
                streams=body.stream,
                deliver=self._listener(number * body.n + i),
            )
            for number, (prompt, frame) in enumerate(
                zip(question.prompts, question.frames, strict=True)
            )
            for i in range(body.n)
        ]

    def _listener(self, index: int):
        def deliver(delta: answers.Delta) -> None:
            self._loop.call_soon_threadsafe(self._deltas.put_nowait, (index, delta))

        return deliver


def _number(seed: int, choice: int) -> int:
    """Of the random numbers of a choice, below 2³¹."""
    digest = hashlib.blake2b(f'{seed} {choice}'.encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1
