"""What becomes of a request: its jobs and their random numbers."""

import asyncio
import contextlib
import json

from fastapi import testclient
import pytest
from starlette import requests

from beaver_jax.serve import app as app_lib
from beaver_jax.serve import exchange as exchange_lib
from tests.serve import conftest


@pytest.fixture
def client(model):
    served = app_lib.Served({'talker': model}, None, conftest.LIMITS)
    yield testclient.TestClient(app_lib.make(served), 'http://localhost')
    served.votes.close()


def texts(client, **changes):
    body = {'model': 'talker', 'prompt': ['See the'] * 2, 'n': 2, 'max_tokens': 12}
    response = client.post('/v1/completions', json=body | changes)
    assert response.status_code == 200, response.text
    return [choice['text'] for choice in response.json()['choices']]


def test_equal_prompts_differ_but_for_a_seed(client):
    assert len(set(texts(client))) == 4
    first, second, *same = texts(client, seed=3)
    assert first != second and same == [first, second]


async def leave(app, body):
    """A client that sends a request and is gone before anything is sent to it."""
    sent = [{'type': 'http.request', 'body': json.dumps(body).encode()}]

    async def receive():
        return sent.pop() if sent else {'type': 'http.disconnect'}

    async def send(message):
        raise OSError('nobody is there')

    scope = {
        'type': 'http',
        'asgi': {'version': '3.0', 'spec_version': '2.4'},
        'http_version': '1.1',
        'method': 'POST',
        'scheme': 'http',
        'path': '/v1/completions',
        'raw_path': b'/v1/completions',
        'query_string': b'',
        'headers': [(b'host', b'localhost'), (b'content-type', b'application/json')],
        'client': ('127.0.0.1', 5),
        'server': ('127.0.0.1', 80),
    }
    with contextlib.suppress(requests.ClientDisconnect, OSError):
        await app(scope, receive, send)


@pytest.mark.parametrize('stream', [True, False])
def test_a_client_that_leaves_before_the_first_event_frees_its_slots(model, stream):
    cancelled = []

    class Watched(exchange_lib.Exchange):
        def cancel(self):
            cancelled.append(self.count)
            super().cancel()

    served = app_lib.Served({'talker': model}, None, conftest.LIMITS)
    body = {'model': 'talker', 'prompt': 'See the', 'max_tokens': 12, 'stream': stream}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange_lib, 'Exchange', Watched)
        asyncio.run(leave(app_lib.make(served), body))
    assert cancelled and set(cancelled) == {1}
    served.votes.close()
