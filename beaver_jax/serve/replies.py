"""Responses to requests for answers: whole, or streamed."""

import asyncio
from collections.abc import AsyncIterator
import json
from typing import Any

import fastapi
from fastapi import responses
from starlette import types

from beaver_jax.serve import answers
from beaver_jax.serve import errors
from beaver_jax.serve import exchange as exchange_lib
from beaver_jax.serve import shapes

_GONE = 499  # nobody reads it


async def reply(
    request: fastapi.Request,
    question: exchange_lib.Question,
    shape: shapes.Shape,
) -> fastapi.Response:
    """Asks, and responds as the request wants it.

    Raises:
      ApiError: See `exchange.Exchange`.
    """
    exchange = exchange_lib.Exchange(question)
    if not question.body.stream:
        return await _unless_gone(request, exchange, shape)
    return Stream(_stream(exchange, shape), exchange)


class Stream(responses.StreamingResponse):
    """Server-sent events, which nobody on the way may hold back."""

    def __init__(self, events: AsyncIterator[str], *asked: exchange_lib.Exchange):
        """A response whose end, whenever it comes, cancels what was asked."""
        super().__init__(
            events,
            media_type='text/event-stream',
            headers={'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'},
        )
        self._asked = asked

    async def __call__(
        self, scope: types.Scope, receive: types.Receive, send: types.Send
    ) -> None:
        """Sends the events.

        A client may have left before the first, and then `events` never begins.
        """
        try:
            await super().__call__(scope, receive, send)
        finally:
            for one in self._asked:
                one.cancel()


def event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f'data: {json.dumps(data, ensure_ascii=False)}\n\n'


async def _unless_gone(
    request: fastapi.Request, exchange: exchange_lib.Exchange, shape: shapes.Shape
) -> fastapi.Response:
    """The whole response; a client that leaves frees its slots."""
    whole = asyncio.create_task(_whole(exchange, shape))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            return responses.JSONResponse(whole.result())
        return responses.Response(status_code=_GONE)
    finally:
        whole.cancel()
        gone.cancel()
        exchange.cancel()


async def _gone(request: fastapi.Request) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


async def _whole(
    exchange: exchange_lib.Exchange, shape: shapes.Shape
) -> dict[str, Any]:
    # What is not streamed is one delta.
    found = {index: delta async for index, delta in exchange.deltas()}
    choices = [
        shape.whole(index, delta.text, delta.tokens, delta.finish or 'stop')
        for index, delta in sorted(found.items())
    ]
    return shape.wrap(choices, streams=False, usage=_usage(exchange, found))


async def _stream(
    exchange: exchange_lib.Exchange, shape: shapes.Shape
) -> AsyncIterator[str]:
    options = exchange.question.body.stream_options
    counts = options is not None and options.include_usage
    more: dict[str, Any] = {'usage': None} if counts else {}
    last: dict[int, answers.Delta] = {}
    try:
        for index in range(exchange.count):
            for choice in shape.begin(index):
                yield event(shape.wrap([choice], streams=True, **more))
        async for index, delta in exchange.deltas():
            last[index] = delta
            for choice in shape.part(index, delta):
                yield event(shape.wrap([choice], streams=True, **more))
        if counts:
            more = {'usage': _usage(exchange, last)}
            yield event(shape.wrap([], streams=True, **more))
        yield 'data: [DONE]\n\n'
    except errors.ApiError as error:  # the status is sent already
        yield event(error.body())


def _usage(
    exchange: exchange_lib.Exchange, last: dict[int, answers.Delta]
) -> dict[str, int]:
    prompts = sum(map(len, exchange.question.prompts))
    return shapes.usage(prompts, sum(delta.count for delta in last.values()))
