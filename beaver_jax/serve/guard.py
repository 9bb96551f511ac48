"""What stands before every request: token, host, sizes and numbers."""

import asyncio
import hmac
import re

from starlette import datastructures
from starlette import types

from beaver_jax.serve import errors
from beaver_jax.serve import limits as limits_lib

# Who opens the page has no token yet; monitors have none.
OPEN = ('/', '/health')
LOCAL = ('localhost', '127.0.0.1', '[::1]')
UPLOAD_SECONDS = 30.0


class Guard:
    """An ASGI application around another one.

    Without a token, only requests that name a local host are served: a page from
    elsewhere could have its own name lead to this machine (DNS rebinding). Nor can such
    a page post JSON, as no answer allows other origins.
    """

    def __init__(
        self,
        app: types.ASGIApp,
        limits: limits_lib.Limits,
        token: str | None,
    ):
        """Guards an application.

        Args:
          app: The application.
          limits: Of sizes and numbers.
          token: What clients must send as their bearer token; None asks for none.
        """
        self._app, self._limits = app, limits
        self._token = None if token is None else token.encode()
        self._active = 0

    async def __call__(
        self, scope: types.Scope, receive: types.Receive, send: types.Send
    ) -> None:
        """Serves a request, or says why not."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        self._active += 1
        try:
            self._check(scope)
            receive = await self._read(scope, receive)
        except errors.ApiError as error:
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1

    def _check(self, scope: types.Scope) -> None:
        headers = datastructures.Headers(scope=scope)
        if self._active > self._limits.connections:
            raise errors.ApiError(
                503,
                f'More than {self._limits.connections} requests at a time.',
                code='overloaded',
                headers={'Retry-After': '1'},
            )
        if self._token is None:
            if re.sub(r':\d*$', '', headers.get('host', '')) not in LOCAL:
                raise errors.ApiError(
                    403,
                    'Without a token this server is for local use, by the names '
                    f'{", ".join(LOCAL)}.',
                    code='host_not_allowed',
                )
        elif scope['path'] not in OPEN:
            self._authenticate(headers.get('authorization', ''))

    def _authenticate(self, given: str) -> None:
        scheme, _, token = given.partition(' ')
        right = hmac.compare_digest(token.strip().encode(), self._token or b'')
        if scheme.lower() != 'bearer' or not right:
            raise errors.ApiError(
                401,
                "The header Authorization: Bearer TOKEN must hold this server's token.",
                code='invalid_api_key',
                headers={'WWW-Authenticate': 'Bearer'},
            )

    async def _read(self, scope: types.Scope, receive: types.Receive) -> types.Receive:
        """Reads a body of bounded size in bounded time; what gives it again."""
        if scope['method'] != 'POST':
            return receive
        kind = datastructures.Headers(scope=scope).get('content-type', '')
        if kind.partition(';')[0].strip().lower() != 'application/json':
            raise errors.ApiError(
                415, 'The header Content-Type must be application/json.'
            )
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                body = await self._body(receive)
        except TimeoutError as error:
            raise errors.ApiError(
                408, f'The body took over {UPLOAD_SECONDS:g} seconds.'
            ) from error
        given = False

        async def again() -> types.Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {'type': 'http.request', 'body': body, 'more_body': False}

        return again

    async def _body(self, receive: types.Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get('body', b'')
            more = message.get('more_body', False)
            if len(body) > self._limits.body_bytes:
                raise errors.ApiError(
                    413,
                    f'The body has more than {self._limits.body_bytes} bytes.',
                    code='request_too_large',
                )
        return bytes(body)
