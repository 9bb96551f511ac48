"""An OpenAI-compatible chat endpoint: calls that are paced, retried and paid once."""

import json
import random
import threading
import time
from typing import Any

import httpx

from beaver_jax.evaluate.judges import ledger as ledger_lib
from beaver_jax.evaluate.judges import pace as pace_lib
from beaver_jax.evaluate.judges import prompts
from beaver_jax.evaluate.judges import replies
from beaver_jax.evaluate.judges import settings as settings_lib

# Tokens of a conversation are at most its bytes and these, of each message.
_FRAME = 16


class NoAnswer(Exception):
    """A question that stays without an answer; the message says why."""


class EndpointError(ValueError):
    """An endpoint that answers nothing, as it is configured."""


def check(settings: settings_lib.Settings) -> None:
    """Looks, with a request that costs nothing, whether anyone would answer.

    Args:
      settings: With a URL and a model.

    Raises:
      EndpointError: Nobody is there, or we are refused.
      ValueError: The key is not in the environment.
    """
    url = f'{settings.url.rstrip("/")}/models'
    try:
        response = httpx.get(
            url, headers=_headers(settings.key()), timeout=settings.timeout
        )
    except httpx.HTTPError as error:
        raise EndpointError(
            f'config.judge.url={settings.url!r} cannot be reached '
            f'({type(error).__name__}: {error}).'
        ) from error
    # Endpoints need not list their models: 404, for one, says nothing.
    status = response.status_code
    if status in (401, 402, 403, 405) or 300 <= status < 400:
        raise _refused(settings, f'HTTP {status}')


class Endpoint:
    """The judge's endpoint. Any thread may ask; a context manager."""

    def __init__(self, settings: settings_lib.Settings, ledger: ledger_lib.Ledger):
        """Opens nothing yet.

        Args:
          settings: With a URL and a model.
          ledger: Where calls are written down.

        Raises:
          ValueError: The key is not in the environment.
        """
        self._settings, self._ledger = settings, ledger
        self._key = settings.key()
        self._url = f'{settings.url.rstrip("/")}/chat/completions'
        self._stopped = threading.Event()
        self._pace = pace_lib.Pace(settings.requests_per_minute, self._sleep)
        self._client = httpx.Client(
            headers=_headers(self._key),
            timeout=settings.timeout,
            limits=httpx.Limits(max_connections=settings.concurrency),
        )

    def __enter__(self) -> 'Endpoint':
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Lets no further call begin; those that wait end with `NoAnswer`."""
        self._stopped.set()
        self._ledger.stop()

    def ask(self, messages: list[prompts.Message]) -> prompts.Verdict:
        """The verdict on a question, from the ledger or by as many calls as it takes.

        Replies that were paid for and of no use count among the attempts of later
        runs, too; calls that failed do not.

        Raises:
          NoAnswer: The attempts or the budget are spent, or the question is refused.
          EndpointError: The endpoint answers nothing.
        """
        question = ledger_lib.question(self._url, self._request(messages))
        stored = self._ledger.answer(question)
        if stored and (told := prompts.verdict(replies.text_of(stored))):
            return told
        useless = self._ledger.unusable(question)
        reason = useless[-1] if useless else ''
        for attempt in range(len(useless), self._settings.attempts):
            asked = prompts.reminded(messages) if useless else messages
            reply = self._call(question, self._request(asked))
            if reply.then == 'done':
                return _verdict(reply.text)
            reason = reply.reason
            if reply.then == 'stop':
                raise _refused(self._settings, reason)
            if reply.then == 'give_up':
                break
            if reply.state == 'unusable':
                useless.append(reason)
            if attempt + 1 < self._settings.attempts:
                self._wait(attempt, reply.wait)
        raise NoAnswer(reason)

    def _call(self, question: str, request: dict[str, Any]) -> replies.Reply:
        """One call, written down."""
        self._pace.wait()
        try:
            number = self._ledger.begin(question, request, self._most_tokens(request))
        except ledger_lib.BudgetSpent as error:
            raise NoAnswer(f'the budget: {error}') from error
        except ledger_lib.Stopped as error:
            raise NoAnswer('stopped') from error
        body = ''
        reply = replies.Reply('error', 'again', 'interrupted')
        try:
            status, headers, body = self._post(request)
            reply = replies.read(status, headers, body, _is_usable)
        except httpx.ConnectError as error:
            reply = replies.Reply('error', 'again', f'no connection: {error}', tokens=0)
        except httpx.HTTPError as error:
            # The call may have been worked on, and be paid for.
            reply = replies.Reply('error', 'again', type(error).__name__)
        finally:
            reason, body = map(self._without_key, (reply.reason, body))
            self._ledger.end(number, reply.state, reply.tokens, reason, body)
        return reply._replace(reason=reason)

    def _post(self, request: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        deadline = time.monotonic() + self._settings.timeout
        data = b''
        with self._client.stream('POST', self._url, json=request) as response:
            for part in response.iter_bytes():
                data += part
                # httpx bounds the time between two parts, not that of all of them.
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout('the response took too long')
        headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status_code, headers, data.decode(errors='replace')

    def _request(self, messages: list[prompts.Message]) -> dict[str, Any]:
        settings = self._settings
        request: dict[str, Any] = {
            'model': settings.model,
            'messages': messages,
            settings.max_tokens_key: settings.max_tokens,
        }
        if settings.temperature >= 0:
            request['temperature'] = settings.temperature
        return request

    def _most_tokens(self, request: dict[str, Any]) -> int:
        messages = request['messages']
        size = sum(len(json.dumps(message).encode()) + _FRAME for message in messages)
        return size + self._settings.max_tokens

    def _wait(self, attempt: int, asked: float) -> None:
        """Before the next attempt: exponentially longer, with jitter, or as asked."""
        if asked:
            self._pace.hold(asked)
        longest = min(self._settings.backoff * 2**attempt, 60.0)
        self._sleep(max(asked, longest * random.uniform(0.5, 1.0)))

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise NoAnswer('stopped')

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, '***') if self._key else text


def _headers(key: str) -> dict[str, str]:
    return {'Authorization': f'Bearer {key}'} if key else {}


def _refused(settings: settings_lib.Settings, reason: str) -> EndpointError:
    return EndpointError(
        f'config.judge.url={settings.url!r} refuses to answer as '
        f'{settings.model!r} ({reason}); check URL, model and the key in '
        f'{settings.key_variable or "no variable"}. Answers that have come are kept.'
    )


def _is_usable(text: str) -> bool:
    return prompts.verdict(text) is not None


def _verdict(text: str) -> prompts.Verdict:
    verdict = prompts.verdict(text)
    assert verdict is not None, text
    return verdict
