"""Reward and cost models that score conversations, several at a time, in a thread."""

from collections.abc import Mapping, Sequence
from concurrent import futures
import logging
import threading

from beaver_jax.serve import engine
from beaver_jax.stages import score_model

log = logging.getLogger(__name__)

SHORTEST = 64  # conversations are padded to this, twice this, …
Conversation = Mapping[str, Sequence[int]]  # ids by score model


class Scorer:
    """All score models of a server, in a thread."""

    def __init__(
        self,
        models: Mapping[str, score_model.ScoreModel],
        *,
        rows: int,
        tokens: int,
        capacity: int,
    ):
        """Compiles everything and starts the thread.

        Args:
          models: By name; `score_model.REWARD` is the reward model, all others are
            cost models.
          rows: Conversations at a time.
          tokens: Of the longest conversation.
          capacity: Conversations that wait at most.
        """
        self.models, self._rows, self.capacity = dict(models), rows, capacity
        self.tokens = min([tokens, *(one.positions for one in models.values())])
        self._changed = threading.Condition()
        self._waiting: list[tuple[Conversation, futures.Future]] = []
        self._closing = False
        for length in self._lengths():
            self._scores([{name: [0] * length for name in models}])
        self._thread = threading.Thread(target=self._run, name='scorer', daemon=True)
        self._thread.start()

    def submit(
        self, conversations: Sequence[Conversation]
    ) -> list[futures.Future[dict[str, list[float]]]]:
        """Futures of scores by model and output: of all conversations, or none.

        Raises:
          BusyError: There is no room for them.
          ClosedError: After `close`.
        """
        with self._changed:
            if self._closing:
                raise engine.ClosedError
            if len(self._waiting) + len(conversations) > self.capacity:
                raise engine.BusyError
            found: list[futures.Future] = [futures.Future() for _ in conversations]
            self._waiting.extend(zip(conversations, found, strict=True))
            self._changed.notify()
        return found

    def close(self) -> None:
        """Scores what was submitted, takes nothing new, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _lengths(self) -> list[int]:
        lengths, length = [], SHORTEST
        while length < self.tokens:
            lengths.append(length)
            length *= 2
        return [*lengths, self.tokens]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                batch = self._waiting[: self._rows]
                del self._waiting[: self._rows]
            batch = [one for one in batch if one[1].set_running_or_notify_cancel()]
            try:
                scores = self._scores([conversation for conversation, _ in batch])
            except Exception as error:
                log.exception('serve: scoring failed; the requests get an error')
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), found in zip(batch, scores, strict=True):
                    future.set_result(found)

    def _scores(
        self, conversations: Sequence[Conversation]
    ) -> list[dict[str, list[float]]]:
        found: list[dict[str, list[float]]] = [{} for _ in conversations]
        for name, model in self.models.items():
            rows = [conversation[name] for conversation in conversations]
            longest = max(map(len, rows), default=1)
            length = next(size for size in self._lengths() if size >= longest)
            rows += [[0]] * (self._rows - len(rows))  # one program for any number
            scores = model.score(rows, length)
            for one, row in zip(found, scores, strict=False):
                one[name] = row.tolist()
        return found
