"""Asks a server through a client without a network, and looks at its errors."""

from fastapi import testclient

from beaver_jax.serve import app as app_lib
from beaver_jax.serve import errors

CHAT, COMPLETE = '/v1/chat/completions', '/v1/completions'
ASKS = [{'role': 'user', 'content': 'Who is there?'}]
ANSWERED = [*ASKS, {'role': 'assistant', 'content': 'I cannot say.'}]


def client_of(served):
    return testclient.TestClient(
        app_lib.make(served), 'http://localhost', raise_server_exceptions=False
    )


def ask(client, path=CHAT, **changes):
    asked = {'messages': ASKS} if path == CHAT else {'prompt': 'See the'}
    given = {'model': 'talker', 'seed': 3, 'max_tokens': 12} | asked
    return client.post(path, json=given | changes)


def check(response, status, message, param=None):
    assert response.status_code == status, response.text
    body = errors.Body.model_validate(response.json()).error
    assert message in body.message
    assert param is None or body.param == param
