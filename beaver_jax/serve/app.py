"""The HTTP API: OpenAI's models, chat and completions, and scores of conversations."""

import asyncio
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import fastapi
from fastapi import concurrency
from starlette import types

from beaver_jax.serve import arena
from beaver_jax.serve import engine as engine_lib
from beaver_jax.serve import errors
from beaver_jax.serve import exchange
from beaver_jax.serve import guard
from beaver_jax.serve import limits as limits_lib
from beaver_jax.serve import models as models_lib
from beaver_jax.serve import replies
from beaver_jax.serve import schemas
from beaver_jax.serve import scorer as scorer_lib
from beaver_jax.serve import shapes
from beaver_jax.serve import texts
from beaver_jax.serve import votes as votes_lib
from beaver_jax.stages import score_model

LEGACY_TOKENS = 16  # OpenAI's default of /v1/completions
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {'model': errors.Body} for status in (422, '4XX', '5XX')
}


@dataclasses.dataclass(frozen=True)
class Served:
    """What a server serves.

    Attributes:
      models: Language models by name.
      scorer: Reward and cost models; None without any.
      limits: Of requests.
      token: That clients must send; None for none.
      votes: Of the arena.
    """

    models: Mapping[str, models_lib.Model]
    scorer: scorer_lib.Scorer | None
    limits: limits_lib.Limits
    token: str | None = None
    votes: votes_lib.Votes = dataclasses.field(
        default_factory=lambda: votes_lib.Votes('')
    )

    def model(self, name: str) -> models_lib.Model:
        """A model by its name.

        Raises:
          ApiError: There is none.
        """
        if name in self.models:
            return self.models[name]
        known = ', '.join(self.models)
        raise errors.ApiError(
            404,
            f'There is no model {name!r}; there are: {known}.',
            param='model',
            code='model_not_found',
        )

    def close(self) -> None:
        """Finishes what was asked for and ends all threads."""
        for model in self.models.values():
            model.engine.close()
        if self.scorer is not None:
            self.scorer.close()
        self.votes.close()


def make(served: Served) -> types.ASGIApp:
    """The application, guarded."""
    # Its pages of documentation would load scripts from elsewhere.
    app = fastapi.FastAPI(
        title='beaver_jax', docs_url=None, redoc_url=None, responses=_ERRORS
    )
    errors.install(app)
    _add_models(app, served)
    _add_answers(app, served)
    _add_scores(app, served)
    arena.install(app, arena.Arena(list(served.models.values()), served.votes))
    return guard.Guard(app, served.limits, served.token)


def _add_models(app: fastapi.FastAPI, served: Served) -> None:
    def card(model: models_lib.Model) -> dict[str, Any]:
        return {
            'id': model.name,
            'object': 'model',
            'created': model.created,
            'owned_by': 'beaver_jax',
        }

    @app.get('/health')
    async def health(response: fastapi.Response) -> dict[str, Any]:
        """How many answers each model has to give; 503 if one gives none any more."""
        engines = {name: model.engine for name, model in served.models.items()}
        open_ = {name: engine.open for name, engine in engines.items()}
        if broken := [name for name, engine in engines.items() if engine.broken]:
            error = errors.gone(', '.join(broken))
            response.status_code = error.status
            return {'status': 'failed', 'open': open_, **error.body()}
        return {'status': 'ok', 'open': open_}

    @app.get('/v1/models')
    async def models() -> dict[str, Any]:
        """All models, and the names of those that score."""
        return {
            'object': 'list',
            'data': [card(m) for m in served.models.values()],
            'score_models': [] if served.scorer is None else [*served.scorer.models],
        }

    @app.get('/v1/models/{name}')
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return card(served.model(name))


def _add_answers(app: fastapi.FastAPI, served: Served) -> None:
    @app.post('/v1/chat/completions', response_model=None)
    async def chat(
        request: fastapi.Request, body: schemas.ChatRequest
    ) -> fastapi.Response:
        """Answers a conversation."""
        model = served.model(body.model)
        _check_stream(body)
        if body.top_logprobs and not body.logprobs:
            raise errors.ApiError(
                400, 'top_logprobs needs logprobs=true.', param='top_logprobs'
            )
        _check_alternatives(model, body.top_logprobs, 'top_logprobs')
        turns = schemas.conversation(body.messages, ends_with='user')
        ids = await concurrency.run_in_threadpool(model.encode_chat, turns)
        question = exchange.Question(
            model=model,
            prompts=[ids],
            frames=[model.chat_frame],
            body=body,
            limit=_limit(body) or model.limits.answer_tokens,
            shows=body.logprobs,
        )
        shape = shapes.Chat(model, shows=body.logprobs, alternatives=body.top_logprobs)
        return await replies.reply(request, question, shape)

    @app.post('/v1/completions', response_model=None)
    async def complete(
        request: fastapi.Request, body: schemas.CompletionRequest
    ) -> fastapi.Response:
        """Continues texts, or ids, as they stand."""
        model = served.model(body.model)
        _check_stream(body)
        _check_alternatives(model, body.logprobs or 0, 'logprobs')
        prompts = await concurrency.run_in_threadpool(_prompts, model, body.prompt)
        default = min(LEGACY_TOKENS, model.limits.answer_tokens)
        question = exchange.Question(
            model=model,
            prompts=prompts,
            frames=[texts.Frame(prompt) for prompt in prompts],
            body=body,
            limit=body.max_tokens or default,
            shows=body.logprobs is not None,
        )
        shape = shapes.Completion(model, alternatives=body.logprobs)
        return await replies.reply(request, question, shape)


def _add_scores(app: fastapi.FastAPI, served: Served) -> None:
    @app.post('/v1/score')
    async def score(body: schemas.ScoreRequest) -> dict[str, Any]:
        """Reward and costs of conversations that end with an answer."""
        scorer = served.scorer
        if scorer is None:
            raise errors.ApiError(
                404, 'There is no reward or cost model; start the server with some.'
            )
        if (body.messages is None) == (body.conversations is None):
            raise errors.ApiError(
                400, 'Give either messages, one conversation, or conversations.'
            )
        given = [body.messages] if body.messages else body.conversations or []
        if len(given) > scorer.capacity:  # no later time would do
            raise errors.ApiError(
                400,
                f'{len(given)} conversations; at most {scorer.capacity}.',
                param='conversations',
            )
        turns = [schemas.conversation(one, ends_with='assistant') for one in given]
        if not body.ended and not all(one[-1] for one in turns):
            raise errors.ApiError(
                400,
                'There is no answer to score: it has no text, and has not ended.',
                param='ended',
            )
        encoded = await concurrency.run_in_threadpool(
            _encode_all, scorer, turns, body.ended
        )
        try:
            waiting = [asyncio.wrap_future(f) for f in scorer.submit(encoded)]
        except engine_lib.BusyError as error:
            raise errors.busy('Too many conversations wait for scores.') from error
        except engine_lib.ClosedError as error:
            raise errors.closed() from error
        try:
            async with asyncio.timeout(served.limits.seconds):
                found = await asyncio.gather(*waiting)
        except TimeoutError as error:
            raise errors.late(served.limits.seconds) from error
        data = [
            {'object': 'score', 'index': i, **_scores(one)}
            for i, one in enumerate(found)
        ]
        tokens = sum(len(ids) for one in encoded for ids in one.values())
        return {'object': 'list', 'data': data, 'usage': shapes.usage(tokens, 0)}


def _scores(found: Mapping[str, list[float]]) -> dict[str, Any]:
    """A number of a model with one output, else a list."""
    values = {name: row[0] if len(row) == 1 else row for name, row in found.items()}
    return {'reward': values.pop(score_model.REWARD, None), 'costs': values}


def _limit(body: schemas.ChatRequest) -> int | None:
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        raise errors.ApiError(
            400,
            'max_tokens and max_completion_tokens differ; give one of them.',
            param='max_completion_tokens',
        )
    return given.pop() if given else None


def _check_stream(body: schemas.ChatRequest | schemas.CompletionRequest) -> None:
    if body.stream_options is not None and not body.stream:
        raise errors.ApiError(
            400, 'stream_options needs stream=true.', param='stream_options'
        )


def _check_alternatives(model: models_lib.Model, wanted: int, name: str) -> None:
    if wanted > model.limits.top_logprobs:
        raise errors.ApiError(
            400,
            f'{name}={wanted}; at most {model.limits.top_logprobs} on this server.',
            param=name,
        )


def _prompts(
    model: models_lib.Model, prompt: str | list[str] | list[int] | list[list[int]]
) -> list[tuple[int, ...]]:
    """Ids of the prompts of a completion request.

    Raises:
      ApiError: One is empty, or too long, or has an id that there is not.
    """
    many: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    if isinstance(many[0], int):
        many = [many]
    if len(many) > model.limits.choices:
        raise errors.ApiError(
            400,
            f'{len(many)} prompts; at most {model.limits.choices}.',
            param='prompt',
        )
    found = [model.encode_text(p) if isinstance(p, str) else tuple(p) for p in many]
    if not all(found):
        raise errors.ApiError(400, 'The prompt is empty.', param='prompt')
    if any(token not in model.vocabulary for ids in found for token in ids):
        raise errors.ApiError(
            400,
            f'The prompt has ids outside of 0 to {len(model.vocabulary) - 1}.',
            param='prompt',
        )
    return found


def _encode_all(
    scorer: scorer_lib.Scorer, turns: Sequence[Sequence[str]], ended: bool
) -> list[dict[str, list[int]]]:
    """Ids by score model, without the last EOS where answers have not ended.

    Raises:
      ApiError: A conversation is too long.
    """
    found = [
        {name: model.encode(one, ended=ended) for name, model in scorer.models.items()}
        for one in turns
    ]
    longest = max(len(ids) for one in found for ids in one.values())
    if longest > scorer.tokens:
        raise errors.ApiError(
            400,
            f'A conversation has {longest} tokens; at most {scorer.tokens}.',
            code='context_length_exceeded',
        )
    return found
