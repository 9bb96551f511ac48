"""The page, and a blind arena: two models answer, a person votes, names are shown."""

import asyncio
import base64
import collections
from collections.abc import AsyncIterator
import contextlib
import dataclasses
import hashlib
import pathlib
import re
import secrets
from typing import Any, Literal

import fastapi
from fastapi import concurrency
from fastapi import responses

from beaver_jax.serve import errors
from beaver_jax.serve import exchange
from beaver_jax.serve import models as models_lib
from beaver_jax.serve import replies
from beaver_jax.serve import schemas
from beaver_jax.serve import votes as votes_lib

REMEMBERED = 1000  # battles that may still be voted on
PAGE = pathlib.Path(__file__).with_name('page.html')
SIDES = ('a', 'b')


class BattleRequest(schemas.Strict):
    """Of /arena/battles: one conversation for both sides, or one for each."""

    a: schemas.Turns
    b: schemas.Turns
    battle: schemas.Text | None = None  # goes on with the models of another one


class VoteRequest(schemas.Strict):
    """Of /arena/votes."""

    battle: schemas.Text
    vote: Literal['a', 'b', 'tie', 'bad']


@dataclasses.dataclass
class _Battle:
    models: tuple[models_lib.Model, models_lib.Model]
    answered: bool = False  # both, at least once
    running: int = 0  # questions that are being answered


class Arena:
    """Battles between the models of a server, which only it knows by name."""

    def __init__(self, models: list[models_lib.Model], votes: votes_lib.Votes):
        """Models that fight."""
        self._models, self._votes = models, votes
        self._battles: collections.OrderedDict[str, _Battle] = collections.OrderedDict()

    @property
    def names(self) -> list[str]:
        """Of all models."""
        return [model.name for model in self._models]

    def begin(self, body: BattleRequest) -> tuple[str, _Battle]:
        """A battle of two models, drawn by chance, or of those of another battle.

        Raises:
          ApiError: There are not two models, or no such battle without a vote.
        """
        if len(self._models) < 2:
            raise errors.ApiError(404, 'An arena needs two models; serve another one.')
        if body.battle is not None:
            return body.battle, self._battle(body.battle)
        first, second = secrets.SystemRandom().sample(self._models, 2)
        battle = secrets.token_urlsafe(12)
        self._battles[battle] = found = _Battle((first, second))
        while len(self._battles) > REMEMBERED:
            self._battles.popitem(last=False)
        return battle, found

    def vote(self, body: VoteRequest) -> dict[str, Any]:
        """Stores a vote and tells who it was for.

        Raises:
          ApiError: There is no such battle, it has a vote, or it is not over.
        """
        battle = self._battle(body.battle)
        if battle.running or not battle.answered:
            raise errors.ApiError(409, 'The answers are not finished.', param='battle')
        first, second = (model.name for model in battle.models)
        if not self._votes.add(body.battle, first, second, body.vote):
            raise _no_battle()
        self._battles.pop(body.battle, None)
        return {'a': first, 'b': second, 'ratings': self.ratings()}

    def ratings(self) -> list[dict[str, Any]]:
        """See `votes.Votes.ratings`."""
        return self._votes.ratings(self.names)

    def _battle(self, name: str) -> _Battle:
        found = self._battles.get(name)
        if found is None:
            raise _no_battle()
        return found


def _no_battle() -> errors.ApiError:
    return errors.ApiError(
        404, 'There is no such battle, or it has its vote.', param='battle'
    )


def install(app: fastapi.FastAPI, arena: Arena) -> None:
    """Adds the page and the arena to an application."""
    html = PAGE.read_text(encoding='utf-8')
    headers = {'Content-Security-Policy': policy(html), 'Cache-Control': 'no-cache'}

    @app.get('/', response_model=None, include_in_schema=False)
    async def page() -> fastapi.Response:
        return responses.HTMLResponse(html, headers=headers)

    @app.get('/arena/ratings')
    async def ratings() -> dict[str, Any]:
        """Elo ratings by all votes."""
        return {'ratings': await concurrency.run_in_threadpool(arena.ratings)}

    @app.post('/arena/votes')
    async def vote(body: VoteRequest) -> dict[str, Any]:
        """Votes on a battle, once; tells the models' names."""
        return await concurrency.run_in_threadpool(arena.vote, body)

    @app.post('/arena/battles', response_model=None)
    async def fight(body: BattleRequest) -> fastapi.Response:
        """Lets two models answer; a stream of {'side', 'text'}."""
        turns = [
            schemas.conversation(one, ends_with='user') for one in (body.a, body.b)
        ]
        name, battle = arena.begin(body)
        asked: list[exchange.Exchange] = []
        try:
            for model, said in zip(battle.models, turns, strict=True):
                asked.append(exchange.Exchange(await _question(model, said)))
        except errors.ApiError:
            for one in asked:
                one.cancel()
            raise
        return replies.Stream(_stream(name, battle, asked), *asked)


async def _question(
    model: models_lib.Model, turns: tuple[str, ...]
) -> exchange.Question:
    ids = await concurrency.run_in_threadpool(model.encode_chat, turns)
    messages = [schemas.Message(role='user', content=turns[-1])]
    return exchange.Question(
        model=model,
        prompts=[ids],
        frames=[model.chat_frame],
        body=schemas.ChatRequest(model=model.name, messages=messages, stream=True),
        limit=model.limits.answer_tokens,
        shows=False,
    )


async def _stream(
    name: str, battle: _Battle, asked: list[exchange.Exchange]
) -> AsyncIterator[str]:
    told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def tell(side: str, one: exchange.Exchange) -> None:
        try:
            async for _, delta in one.deltas():
                await told.put({'side': side, 'text': delta.text})
        except errors.ApiError as error:
            await told.put(error.body())
        finally:
            await told.put(None)

    tasks = [
        asyncio.create_task(tell(side, one))
        for side, one in zip(SIDES, asked, strict=True)
    ]
    left, failed = len(tasks), False
    battle.running += 1
    try:
        yield replies.event({'battle': name})
        while left:
            event = await told.get()
            left -= event is None
            if event is not None:
                failed |= 'error' in event
                yield replies.event(event)
        battle.answered |= not failed
    finally:
        battle.running -= 1
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    yield 'data: [DONE]\n\n'


def policy(html: str) -> str:
    """A Content-Security-Policy that allows the page's own script and style alone."""

    def of(tag: str) -> str:
        found = re.search(rf'<{tag}>(.*?)</{tag}>', html, re.DOTALL)
        assert found is not None
        digest = hashlib.sha256(found[1].encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; script-src {of('script')}; style-src {of('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
