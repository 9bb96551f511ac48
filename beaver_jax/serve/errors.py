"""Errors as OpenAI's API tells them: a status and {'error': {…}}."""

from collections.abc import Mapping
import logging
import re
from typing import Any

import fastapi
from fastapi import exceptions
from fastapi import responses
import pydantic
import starlette.exceptions

log = logging.getLogger(__name__)

_TYPES = {
    401: 'authentication_error',
    403: 'permission_error',
    429: 'rate_limit_error',
    500: 'server_error',
    503: 'service_unavailable_error',
    504: 'timeout_error',
}


class Detail(pydantic.BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Body(pydantic.BaseModel):
    """The body of every response that is no success."""

    error: Detail


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        """Says what was wrong, where in the request, and in one word."""
        super().__init__(message)
        self.status, self.headers = status, headers
        self._message, self._param, self._code = message, param, code

    def body(self) -> dict[str, Any]:
        """The body of the response."""
        detail = Detail(
            message=_readable(self._message),
            type=_TYPES.get(self.status, 'invalid_request_error'),
            param=None if self._param is None else _readable(self._param),
            code=self._code,
        )
        return Body(error=detail).model_dump()

    def response(self) -> responses.JSONResponse:
        """The response."""
        return responses.JSONResponse(self.body(), self.status, self.headers)


def busy(message: str) -> ApiError:
    """More was asked for than may wait."""
    return ApiError(
        429, message, code='rate_limit_exceeded', headers={'Retry-After': '1'}
    )


def closed() -> ApiError:
    """The server ends."""
    return ApiError(503, 'The server is shutting down.', code='shutting_down')


def gone(name: str) -> ApiError:
    """A model has failed for good; the log has it."""
    return ApiError(
        503,
        f'{name} has failed and answers no more; start the server again. Its log says '
        'why.',
        code='model_failed',
    )


def late(seconds: float) -> ApiError:
    """A request took too long."""
    return ApiError(504, f'The request took over {seconds:g} seconds.', code='timeout')


def broken() -> ApiError:
    """Our fault; the log has it."""
    return ApiError(500, 'The server failed; its log says how.', code='internal_error')


def install(app: fastapi.FastAPI) -> None:
    """Makes all errors of an application look like this."""

    @app.exception_handler(ApiError)
    async def ours(_: fastapi.Request, error: ApiError) -> fastapi.Response:
        return error.response()

    @app.exception_handler(exceptions.RequestValidationError)
    async def invalid(
        _: fastapi.Request, error: exceptions.RequestValidationError
    ) -> fastapi.Response:
        return _invalid(error).response()

    @app.exception_handler(starlette.exceptions.HTTPException)
    async def http(
        request: fastapi.Request, error: starlette.exceptions.HTTPException
    ) -> fastapi.Response:
        message = f'{request.method} {request.url.path}: {error.detail}.'
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def other(_: fastapi.Request, error: Exception) -> fastapi.Response:
        log.error('serve: a request failed', exc_info=error)
        return broken().response()


def _invalid(error: exceptions.RequestValidationError) -> ApiError:
    """One complaint: 400 of what is not supported or no JSON, else 422."""
    # Of a field of several types, the type that was meant complains of something else.
    found = error.errors()
    first = next((one for one in found if not one['type'].endswith('_type')), found[0])
    parts = [*map(_place, first['loc'][1:])]
    if first['type'] == 'extra_forbidden':
        parts[-1] = str(first['loc'][-1])  # the client's own word, whatever it is
    place = '.'.join(filter(None, parts))
    if first['type'] == 'json_invalid':
        return ApiError(400, 'The body is no JSON.', code='invalid_json')
    if first['type'] == 'extra_forbidden':
        return ApiError(
            400,
            f'{place} is not supported by this server; leave it out.',
            param=place,
            code='unsupported_parameter',
        )
    return ApiError(
        422, f'{place or "body"}: {first["msg"]}.', param=place, code='invalid_value'
    )


def _place(part: str | int) -> str:
    """A part of a place; nothing of the names that Pydantic gives types."""
    text = str(part)
    return '' if text == 'str' or re.search(r'[\[-]', text) else text


def _readable(text: str) -> str:
    """Short, and without half characters, which a body may name but not hold."""
    text = text.encode('utf-8', 'replace').decode()
    return text if len(text) <= 500 else text[:500] + '…'
