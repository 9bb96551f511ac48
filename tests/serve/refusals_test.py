"""What the API refuses, and its errors, through a client without a network."""

import dataclasses
import json

from fastapi import testclient
import pytest

from beaver_jax.serve import answers
from beaver_jax.serve import app as app_lib
from beaver_jax.serve import engine as engine_lib
from tests.serve import asking
from tests.serve import conftest
from tests.serve import engine_test

CHAT, COMPLETE, ASKS, ANSWERED = (
    asking.CHAT,
    asking.COMPLETE,
    asking.ASKS,
    asking.ANSWERED,
)


@pytest.mark.parametrize(
    ('changes', 'status', 'message', 'param'),
    [
        ({'model': 'gpt'}, 404, "no model 'gpt'; there are: talker", 'model'),
        ({'temperature': 3}, 422, 'less than or equal to 2', 'temperature'),
        ({'temperature': '1'}, 422, 'valid number', 'temperature'),
        ({'n': 0}, 422, 'greater than or equal to 1', 'n'),
        ({'n': 5}, 400, '5 answers to a request; at most 4', 'n'),
        ({'max_tokens': 41}, 400, 'max_tokens=41; at most 40', 'max_tokens'),
        (
            {'max_completion_tokens': 5},
            400,
            'max_tokens and max_completion_tokens differ',
            'max_completion_tokens',
        ),
        ({'top_logprobs': 1}, 400, 'needs logprobs=true', 'top_logprobs'),
        ({'logprobs': True, 'top_logprobs': 3}, 400, 'at most 2', 'top_logprobs'),
        ({'stream_options': {}}, 400, 'needs stream=true', 'stream_options'),
        ({'stop': ['a'] * 5}, 422, 'at most 4 items', None),
        ({'stop': ''}, 422, 'at least 1', 'stop'),
        ({'tools': [{}]}, 400, 'tools is not supported by this server', 'tools'),
        ({'str': 1}, 400, 'str is not supported by this server', 'str'),
        ({'x-top[k]': 1}, 400, 'x-top[k] is not supported', 'x-top[k]'),
        ({'frequency_penalty': 0.5}, 400, 'frequency_penalty is not supp', None),
        ({'seed': 2**63}, 422, 'less than', 'seed'),
        ({'messages': []}, 422, 'at least 1 item', 'messages'),
        ({'messages': [{'role': 'user'}]}, 422, 'required', 'messages.0.content'),
        (
            {'messages': [{'role': 'system', 'content': 'Be good.'}, *ASKS]},
            400,
            "messages[0].role is 'system', not 'user'",
            'messages',
        ),
        (
            {'messages': ANSWERED},
            400,
            "The last message must be of 'user'",
            None,
        ),
        (
            {'messages': [{'role': 'user', 'content': 'word ' * 50}]},
            400,
            'tokens; at most 64',
            None,
        ),
    ],
    ids=str,
)
def test_chats_that_are_refused(client, changes, status, message, param):
    asking.check(asking.ask(client, **changes), status, message, param)


@pytest.mark.parametrize(
    ('changes', 'status', 'message'),
    [
        ({'prompt': []}, 422, 'at least 1 item'),
        ({'prompt': [[1], []]}, 422, 'at least 1 item'),
        ({'prompt': [1, 120]}, 400, 'ids outside of 0 to 119'),
        ({'prompt': ['a', 1]}, 422, 'prompt'),
        ({'prompt': ['a'] * 5}, 400, '5 prompts; at most 4'),
        ({'prompt': ['a'] * 3, 'n': 2}, 400, '6 answers to a request; at most 4'),
        ({'prompt': 'word ' * 50}, 400, 'tokens; at most 64'),
        ({'echo': True}, 400, 'echo is not supported'),
        ({'logprobs': 3}, 400, 'logprobs=3; at most 2'),
    ],
    ids=str,
)
def test_completions_that_are_refused(client, changes, status, message):
    asking.check(asking.ask(client, COMPLETE, **changes), status, message)


JSON = {'Content-Type': 'application/json'}


@pytest.mark.parametrize(
    ('body', 'headers', 'status', 'message'),
    [
        (b'{"model": ', JSON, 400, 'The body is no JSON'),
        (b'\xff\xfe{}', JSON, 400, ''),
        (b'[' * 19_000, JSON, 400, ''),
        (b'1' * 9_000, JSON, 400, ''),
        (b'[]', JSON, 422, 'body'),
        (b'', JSON, 422, 'body'),
        (b'"\\ud800"', JSON, 422, 'body'),
        (b'{"\\ud800": 1}', JSON, 422, ''),
        (b'{"model": "\\ud800", "messages": []}', JSON, 422, 'model: Value error, a'),
        (b'{}', {'Content-Type': 'text/plain'}, 415, 'must be application/json'),
        (b'x' * 20_001, JSON, 413, 'more than 20000 bytes'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bodies_that_are_none(client, body, headers, status, message):
    asking.check(client.post(CHAT, content=body, headers=headers), status, message)


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/v2', 404),
        ('GET', '/v1/models/gpt', 404),
        ('GET', '/v1/models/..%2f..%2fetc%2fpasswd', 404),
        ('GET', '/docs', 404),
        ('GET', CHAT, 405),
        ('DELETE', '/v1/models/talker', 405),
        ('OPTIONS', CHAT, 405),
    ],
)
def test_places_that_are_none(client, method, path, status):
    asking.check(client.request(method, path), status, '')


def test_a_token_is_asked_for(model):
    served = app_lib.Served({'talker': model}, None, conftest.LIMITS, 'sesame')
    client = asking.client_of(served)
    for given in ({}, {'Authorization': 'Bearer Sesame'}, {'Authorization': 'sesame'}):
        response = client.get('/v1/models', headers=given)
        asking.check(response, 401, 'Authorization: Bearer TOKEN')
        assert 'sesame' not in response.text
    right = {'Authorization': 'Bearer sesame', 'Host': 'elsewhere.example'}
    assert client.get('/v1/models', headers=right).status_code == 200
    assert client.get('/health').status_code == 200


@pytest.mark.parametrize(
    ('host', 'status'),
    [
        ('localhost', 200),
        ('127.0.0.1:8000', 200),
        ('[::1]:8000', 200),
        ('evil.example', 403),
        ('localhost.evil.example:8000', 403),
        ('', 403),
    ],
)
def test_without_a_token_only_local_names_are_served(client, host, status):
    response = client.get('/v1/models', headers={'Host': host})
    assert response.status_code == status


def test_more_requests_than_may_be_at_a_time(model):
    app = app_lib.make(app_lib.Served({'talker': model}, None, conftest.LIMITS))
    client = testclient.TestClient(app, 'http://localhost')
    assert client.get('/v1/models').status_code == 200
    app._active = 512
    response = client.get('/v1/models')
    asking.check(response, 503, 'More than 512 requests at a time')
    assert response.headers['Retry-After'] == '1'


def test_a_queue_that_is_full(client, model):
    # Three slots and five places.
    asked = [engine_test.Asked(model, limit=40) for _ in range(8)]
    model.engine.submit([one.job for one in asked])
    response = asking.ask(client)
    asking.check(response, 429, 'The model has 8 answers to give')
    assert response.headers['Retry-After'] == '1'
    model.engine.cancel([one.job for one in asked])
    engine_test.until(lambda: model.engine.open == 0)


def test_a_request_that_takes_too_long(client, model, monkeypatch):
    limits = dataclasses.replace(model.limits, seconds=1e-6)
    monkeypatch.setattr(model, 'limits', limits)
    asking.check(asking.ask(client), 504, 'The request took over 1e-06 seconds')
    *_, last = asking.ask(client, stream=True).text.strip().split('\n\n')
    error = json.loads(last.removeprefix('data: '))['error']
    assert error['type'] == 'timeout_error'
    engine_test.until(lambda: model.engine.open == 0)


def test_a_fault_of_ours_tells_no_details(client, model, monkeypatch):
    def fail(jobs):
        jobs[0].deliver(answers.Delta('', (), 0, 'error'))

    monkeypatch.setattr(model.engine, 'submit', fail)
    asking.check(asking.ask(client), 500, 'The server failed; its log says how.')
    monkeypatch.setattr(model.engine, 'submit', lambda jobs: 1 / 0)
    response = asking.ask(client)
    asking.check(response, 500, 'The server failed; its log says how.')
    assert 'division' not in response.text


def test_a_model_that_has_failed_for_good(client, model, monkeypatch):
    def refuse(jobs):
        raise engine_lib.ClosedError

    monkeypatch.setattr(model.engine, 'submit', refuse)
    monkeypatch.setattr(model.engine, '_broken', True)
    asking.check(asking.ask(client), 503, 'The model has failed and answers no more')
    health = client.get('/health')
    asking.check(health, 503, 'talker has failed and answers no more')
    assert health.json()['status'] == 'failed'


def test_a_server_that_ends_refuses(client, model, monkeypatch):
    def refuse(jobs):
        raise engine_lib.ClosedError

    monkeypatch.setattr(model.engine, 'submit', refuse)
    asking.check(asking.ask(client), 503, 'The server is shutting down')
