"""A thread that decodes what is asked for, many answers at a time.

Whoever asks hands in jobs and is told of tokens as they come. The thread owns the
device's state; all else talks to it through the methods of `Engine`.
"""

from collections.abc import Callable, Sequence
import logging
import threading

import numpy as np

from beaver_jax.rollout import scheduler
from beaver_jax.rollout import streaming
from beaver_jax.serve import answers
from beaver_jax.stages import inputs

log = logging.getLogger(__name__)


class BusyError(Exception):
    """As many jobs wait as may."""


class ClosedError(Exception):
    """The engine takes no jobs any more."""


class Engine:
    """One model's thread."""

    def __init__(
        self,
        make: Callable[[], streaming.Streamer],
        tokenizer: inputs.Tokenizer,
        capacity: int,
    ):
        """Compiles everything and starts the thread.

        Args:
          make: A streamer; called again if one fails.
          tokenizer: Of the model; nobody may encode with it, as that changes it.
          capacity: The most jobs that are answered or wait.
        """
        self._make, self._tokenizer = make, tokenizer
        self._capacity = capacity
        self._streamer = make()
        self._streamer.warm_up()
        # What other threads may touch, under the condition's lock.
        self._changed = threading.Condition()
        self._new: list[answers.Job] = []
        self._open: set[answers.Job] = set()
        self._gone: set[answers.Job] = set()
        self._closing = False
        # What only the thread touches.
        self._requests: dict[answers.Job, scheduler.Request] = {}
        self._answers: dict[scheduler.Request, answers.Answer] = {}
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """Jobs that are answered or wait."""
        return len(self._open)

    def submit(self, jobs: Sequence[answers.Job]) -> None:
        """Puts jobs at the end of the queue: all of them, or none.

        Raises:
          BusyError: There is no room for them.
          ClosedError: After `close`.
        """
        with self._changed:
            if self._closing:
                raise ClosedError
            if len(self._open) + len(jobs) > self._capacity:
                raise BusyError
            self._open.update(jobs)
            self._new.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[answers.Job]) -> None:
        """Forgets jobs that nobody waits for any more; their slots are soon free."""
        with self._changed:
            self._gone.update(self._open.intersection(jobs))
            self._changed.notify()

    def close(self) -> None:
        """Finishes what was submitted, takes nothing new, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            try:
                for piece in self._streamer.stream():
                    self._tell(piece)
            except Exception:
                log.exception('serve: decoding failed; the requests get an error')
                self._fail()

    def _wait(self) -> bool:
        """Takes in what was asked for, once there is something to do; False to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._closing)
            if not self._open:
                return False
            new, self._new = self._new, []
            gone, self._gone = self._gone, set()
            self._open -= gone
        for job in new:
            if job not in gone:
                self._enter(job)
        requests = [self._requests.pop(job) for job in gone if job in self._requests]
        for request in requests:
            del self._answers[request]
        self._streamer.cancel(requests)
        return True

    def _enter(self, job: answers.Job) -> None:
        tokens = np.array(job.tokens, np.int32)
        request = scheduler.Request(
            job.number, tokens, job.limit, job.sampler, job.shows
        )
        self._requests[job] = request
        self._answers[request] = answers.Answer(job, self._tokenizer)
        self._streamer.submit([request])

    def _tell(self, piece: streaming.Piece) -> None:
        answer = self._answers.get(piece.request)
        if answer is None:  # its stop string came before
            return
        delta = answer.take(piece)
        if delta is None:
            return
        if delta.finish is not None:
            if not piece.ended:
                self._streamer.cancel([piece.request])
            self._leave(answer.job)
        _deliver(answer.job, delta)

    def _leave(self, job: answers.Job) -> None:
        del self._answers[self._requests.pop(job)]
        with self._changed:
            self._open.discard(job)

    def _fail(self) -> None:
        for answer in list(self._answers.values()):
            self._leave(answer.job)
            _deliver(answer.job, answers.Delta('', (), 0, 'error'))
        self._streamer = self._make()


def _deliver(job: answers.Job, delta: answers.Delta) -> None:
    try:
        job.deliver(delta)
    except RuntimeError:  # the event loop of who asked is closed
        log.debug('serve: nobody waits for an answer any more')
