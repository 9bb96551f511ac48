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
        self._closing = self._broken = False
        # What only the thread touches.
        self._requests: dict[answers.Job, scheduler.Request] = {}
        self._answers: dict[scheduler.Request, answers.Answer] = {}
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """Jobs that are answered or wait."""
        return len(self._open)

    @property
    def broken(self) -> bool:
        """Whether it has closed itself, as it could not begin anew after a failure."""
        return self._broken

    def submit(self, jobs: Sequence[answers.Job]) -> None:
        """Puts jobs at the end of the queue: all of them, or none.

        Raises:
          BusyError: There is no room for them.
          ClosedError: After `close`, or if it is broken.
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
        try:
            while self._wait():
                # A traceback holds the state that failed: it ends before the next one.
                if not self._advance():
                    self._begin_anew()
        except Exception:
            log.exception('serve: a model cannot begin anew; it answers no more')
            with self._changed:
                self._closing = self._broken = True
            self._fail()

    def _wait(self) -> bool:
        """Waits for something to do; False to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._closing)
            return bool(self._open)

    def _advance(self) -> bool:
        """Decodes a few tokens of all answers; False if that failed."""
        try:
            self._take_in()
            for piece in self._streamer.stream():
                self._tell(piece)
        except Exception:
            log.exception('serve: decoding failed; the requests get an error')
            return False
        return True

    def _take_in(self) -> None:
        """Begins what was asked for, and forgets what nobody waits for."""
        with self._changed:
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

    def _begin_anew(self) -> None:
        self._fail()
        del self._streamer  # there may be no room for two
        self._streamer = self._make()

    def _fail(self) -> None:
        """Gives up all jobs, but those that a later streamer will take in."""
        with self._changed:
            later = set() if self._broken else set(self._new)
            failed, self._open = self._open - later, later
            self._gone &= later
        self._requests.clear()
        self._answers.clear()
        for job in failed:
            _deliver(job, answers.Delta('', (), 0, 'error'))


def _deliver(job: answers.Job, delta: answers.Delta) -> None:
    try:
        job.deliver(delta)
    except RuntimeError:  # the event loop of who asked is closed
        log.debug('serve: nobody waits for an answer any more')
