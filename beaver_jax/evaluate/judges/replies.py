"""What an endpoint's HTTP responses mean."""

from collections.abc import Callable, Mapping
import datetime
import email.utils
import json
import math
from typing import Any, Literal, NamedTuple

# The server or the network may do better next time.
RETRIED = (408, 425, 429)
# The endpoint will never answer anything as it is configured.
FATAL = (401, 402, 403, 404, 405)
LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait
_SHOWN = 200


class Reply(NamedTuple):
    """A response, understood."""

    state: Literal['usable', 'unusable', 'error']
    # What becomes of the question: it is answered, asked again, or never will be; or
    # the endpoint is of no use at all.
    then: Literal['done', 'again', 'give_up', 'stop']
    reason: str = ''  # in words, '' if usable
    text: str = ''  # what the model said
    tokens: int | None = None  # None: not known
    wait: float = 0.0  # seconds that the server asks for


def read(
    status: int,
    headers: Mapping[str, str],
    body: str,
    usable: Callable[[str], bool],
) -> Reply:
    """Reads a response.

    Args:
      status: Of HTTP.
      headers: With lower-case names.
      body: As text.
      usable: Whether what the model said can be used.
    """
    if status == 200:
        return _read_completion(body, usable)
    told = _message(body)
    reason = f'HTTP {status}' + (f': {told}' if told else '')
    if 'insufficient_quota' in body or status in FATAL or status < 400:
        return Reply('error', 'stop', reason, tokens=0)
    if status in RETRIED or status >= 500:
        wait = retry_after(headers.get('retry-after', ''))
        return Reply('error', 'again', reason, tokens=0, wait=wait)
    return Reply('error', 'give_up', reason, tokens=0)


def _read_completion(body: str, usable: Callable[[str], bool]) -> Reply:
    try:
        found = json.loads(body)
        choice = found['choices'][0]
        text, finish = choice['message']['content'], choice.get('finish_reason')
    except (ValueError, LookupError, TypeError, AttributeError):
        # Broken off, or no completion; it may have been paid for.
        return Reply('unusable', 'again', 'the response is no chat completion')
    tokens = _tokens(found)
    if finish == 'length':
        reason = 'the reply was cut by its limit of tokens'
    elif finish == 'content_filter':
        return Reply('unusable', 'give_up', 'a content filter refused', tokens=tokens)
    elif not isinstance(text, str) or not usable(text):
        reason = 'the reply has no verdict'
    else:
        return Reply('usable', 'done', text=text, tokens=tokens)
    return Reply('unusable', 'again', reason, tokens=tokens)


def text_of(body: str) -> str:
    """What the model said in the body of a usable response."""
    return json.loads(body)['choices'][0]['message']['content']


def _tokens(found: Mapping[str, Any]) -> int | None:
    usage = found.get('usage')
    total = usage.get('total_tokens') if isinstance(usage, dict) else None
    return total if type(total) is int and total >= 0 else None


def _message(body: str) -> str:
    """What an error says, in a line."""
    try:
        found = json.loads(body)
        error = found.get('error', found)
        told = error.get('message', error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        told = body
    return ' '.join(str(told).split())[:_SHOWN]


def retry_after(value: str, now: datetime.datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date; 0 for neither.

    Args:
      value: Of the header.
      now: That a date is compared with; None for the clock.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        now = now or datetime.datetime.now(datetime.UTC)
        seconds = (date - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else 0.0
