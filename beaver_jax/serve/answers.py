"""What an engine is asked for, and what it answers while it decodes."""

from collections.abc import Callable
import dataclasses
from typing import Literal

from beaver_jax.rollout import sampling
from beaver_jax.rollout import streaming
from beaver_jax.serve import texts
from beaver_jax.stages import inputs

# The EOS or a stop string; the limit of tokens; a fault of ours, which the log tells.
Finish = Literal['stop', 'length', 'error']


@dataclasses.dataclass(frozen=True)
class Token:
    """A token of an answer.

    Attributes:
      id: Its id.
      logp: Its log-probability at temperature 1, before all filters.
      start: Where its text begins in the answer, in characters.
      top: The likeliest tokens in its place, with their log-probabilities.
    """

    id: int
    logp: float
    start: int
    top: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class Delta:
    """What an answer has got since the last one.

    Attributes:
      text: Text.
      tokens: Tokens whose text has begun, where the job wants them; never the EOS.
      count: Tokens that were sampled so far, the EOS included.
      finish: Why nothing comes after it; None if something may.
    """

    text: str
    tokens: tuple[Token, ...]
    count: int
    finish: Finish | None


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A prompt that wants one answer.

    Attributes:
      tokens: Of the prompt.
      number: Decides the random numbers, below 2³¹: the same gives the same answer.
      limit: The most tokens of the answer.
      sampler: How it is sampled.
      frame: What stands around the answer.
      stop: Texts that end it and are no part of it.
      shows: Whether its tokens are wanted, with log-probabilities and alternatives.
      streams: Whether deltas are wanted as they come, or one at the end.
      deliver: Takes the deltas; called in the engine's thread.
    """

    tokens: tuple[int, ...]
    number: int
    limit: int
    sampler: sampling.Sampler
    frame: texts.Frame
    stop: tuple[str, ...]
    shows: bool
    streams: bool
    deliver: Callable[[Delta], None]


class Answer:
    """The answer to a job under way."""

    def __init__(self, job: Job, tokenizer: inputs.Tokenizer):
        """Nothing is answered yet."""
        self.job = job
        self._eos = tokenizer.eos_token_id
        self._text = texts.Text(tokenizer, job.frame, job.stop)
        self._pending: list[str] = []
        self._tokens: list[Token] = []
        self._count = 0

    def take(self, piece: streaming.Piece) -> Delta | None:
        """Reads more tokens; a delta if somebody is waiting for it."""
        self._read(piece)
        finish: Finish | None = None
        if piece.ended and not self._text.stopped:
            self._pending.append(self._text.finish())
            finish = 'length' if piece.truncated else 'stop'
        if self._text.stopped:
            finish = 'stop'
        if finish is None and not self.job.streams:
            return None
        delta = Delta(''.join(self._pending), self._begun(finish), self._count, finish)
        self._pending = []
        return delta if delta.text or delta.tokens or finish else None

    def _read(self, piece: streaming.Piece) -> None:
        if not (self.job.stop or self.job.shows):
            self._pending.append(self._text.push(piece.tokens.tolist()))
            self._count += len(piece.tokens)
            return
        # One by one, to know where each token begins and which was the last.
        for i, token in enumerate(piece.tokens.tolist()):
            start = self._text.length
            self._pending.append(self._text.push([token]))
            self._count += 1
            if self.job.shows and token != self._eos:
                top = zip(
                    piece.top_tokens[i].tolist(),
                    piece.top_logps[i].tolist(),
                    strict=True,
                )
                logp = float(piece.logps[i])
                self._tokens.append(Token(token, logp, start, tuple(top)))
            if self._text.stopped:
                return

    def _begun(self, finish: Finish | None) -> tuple[Token, ...]:
        """Takes the tokens whose text is shown, in part at least; all at the end."""
        whole = finish is not None and not self._text.stopped
        begun = [one for one in self._tokens if whole or one.start < self._text.shown]
        self._tokens = self._tokens[len(begun) :]
        return tuple(begun)
