"""Answers in the shapes of OpenAI's API: chat, and completions of a text."""

from collections.abc import Sequence
import secrets
import time
from typing import Any, Protocol

from beaver_jax.serve import answers
from beaver_jax.serve import models


class Shape(Protocol):
    """How the answers to one request are written."""

    def begin(self, index: int) -> list[dict[str, Any]]:
        """The first choices of a stream."""

    def part(self, index: int, delta: answers.Delta) -> list[dict[str, Any]]:
        """What of a stream tells a delta: choices of as many chunks."""

    def whole(
        self, index: int, text: str, tokens: Sequence[answers.Token], finish: str
    ) -> dict[str, Any]:
        """A choice of a response that is no stream."""

    def wrap(
        self, choices: list[dict[str, Any]], *, streams: bool, **more: Any
    ) -> dict[str, Any]:
        """The object around choices."""


class Chat:
    """Of /v1/chat/completions."""

    def __init__(self, model: models.Model, *, shows: bool, alternatives: int):
        """Of one request; alternatives are told of tokens, if these are shown."""
        self._model, self._shows, self._alternatives = model, shows, alternatives
        self._head = _head('chatcmpl', model)

    def begin(self, index: int) -> list[dict[str, Any]]:
        """See `Shape`."""
        return [self._choice(index, {'role': 'assistant', 'content': ''})]

    def part(self, index: int, delta: answers.Delta) -> list[dict[str, Any]]:
        """See `Shape`."""
        found = []
        if delta.text or delta.tokens:
            logprobs = self._logprobs(delta.tokens)
            found.append(self._choice(index, {'content': delta.text}, logprobs))
        if delta.finish is not None:
            found.append(self._choice(index, {}) | {'finish_reason': delta.finish})
        return found

    def whole(
        self, index: int, text: str, tokens: Sequence[answers.Token], finish: str
    ) -> dict[str, Any]:
        """See `Shape`."""
        return {
            'index': index,
            'message': {'role': 'assistant', 'content': text, 'refusal': None},
            'logprobs': self._logprobs(tokens),
            'finish_reason': finish,
        }

    def wrap(
        self, choices: list[dict[str, Any]], *, streams: bool, **more: Any
    ) -> dict[str, Any]:
        """See `Shape`."""
        kind = 'chat.completion.chunk' if streams else 'chat.completion'
        return {**self._head, 'object': kind, 'choices': choices, **more}

    def _choice(self, index, delta, logprobs=None) -> dict[str, Any]:
        return {
            'index': index,
            'delta': delta,
            'logprobs': logprobs,
            'finish_reason': None,
        }

    def _logprobs(self, tokens: Sequence[answers.Token]) -> dict[str, Any] | None:
        if not self._shows:
            return None
        content = [
            self._token(one.id, one.logp)
            | {'top_logprobs': [self._token(*t) for t in one.top[: self._alternatives]]}
            for one in tokens
        ]
        return {'content': content, 'refusal': None}

    def _token(self, token: int, logp: float) -> dict[str, Any]:
        text, spelt = self._model.token(token)
        known = None if spelt is None else list(spelt)
        return {'token': text, 'logprob': logp, 'bytes': known}


class Completion:
    """Of /v1/completions."""

    def __init__(self, model: models.Model, *, alternatives: int | None):
        """Of one request; None shows no tokens."""
        self._model, self._alternatives = model, alternatives
        self._head = _head('cmpl', model)

    def begin(self, index: int) -> list[dict[str, Any]]:
        """See `Shape`."""
        del index
        return []

    def part(self, index: int, delta: answers.Delta) -> list[dict[str, Any]]:
        """See `Shape`."""
        return [self.whole(index, delta.text, delta.tokens, delta.finish)]

    def whole(
        self, index: int, text: str, tokens: Sequence[answers.Token], finish: str | None
    ) -> dict[str, Any]:
        """See `Shape`."""
        return {
            'index': index,
            'text': text,
            'logprobs': self._logprobs(tokens),
            'finish_reason': finish,
        }

    def wrap(
        self, choices: list[dict[str, Any]], *, streams: bool, **more: Any
    ) -> dict[str, Any]:
        """See `Shape`."""
        del streams
        return {**self._head, 'object': 'text_completion', 'choices': choices, **more}

    def _logprobs(self, tokens: Sequence[answers.Token]) -> dict[str, Any] | None:
        if self._alternatives is None:
            return None
        return {
            'tokens': [self._text(one.id) for one in tokens],
            'token_logprobs': [one.logp for one in tokens],
            'top_logprobs': [
                {self._text(t): logp for t, logp in one.top[: self._alternatives]}
                for one in tokens
            ],
            'text_offset': [one.start for one in tokens],
        }

    def _text(self, token: int) -> str:
        return self._model.token(token)[0]


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens of prompts and answers."""
    return {
        'prompt_tokens': prompt,
        'completion_tokens': completion,
        'total_tokens': prompt + completion,
    }


def _head(prefix: str, model: models.Model) -> dict[str, Any]:
    return {
        'id': f'{prefix}-{secrets.token_hex(12)}',
        'created': int(time.time()),
        'model': model.name,
    }
