"""Requests that are none: 4xx, never 5xx, and no traceback."""

import json
import socket

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode

from beaver_jax.serve import errors

CHAT = '/v1/chat/completions'
POSTS = (CHAT, '/v1/completions', '/v1/score')
BY_SCHEMA = 90  # of each of the three
ASKS = {'model': 'talker', 'messages': [{'role': 'user', 'content': 'Who?'}]}
DEEP = b'{"a":' * 5000 + b'1' + b'}' * 5000


@pytest.fixture
def count(small_server):
    """Counts refusals; afterwards the server is well."""
    seen = []
    before = len(small_server.log)  # of other tests, in whatever order they ran
    yield seen
    assert 'Traceback' not in small_server.log[before:]
    assert small_server.open() == 0


def check(response, seen):
    assert 400 <= response.status_code < 500, response.text
    errors.Body.model_validate(response.json())
    assert 'Traceback' not in response.text
    seen.append(response.status_code)


@pytest.mark.parametrize('path', POSTS)
def test_what_the_schema_forbids(small_server, count, path):
    # Of null, which counts as left out, a request may be a good one.
    api = schemathesis.openapi.from_url(
        f'{small_server.url}/openapi.json', headers=small_server.headers
    )
    bodies = api[path]['POST'].as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @hypothesis.settings(
        max_examples=BY_SCHEMA,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=bodies)
    def send(case):
        headers = {**small_server.headers, 'Content-Type': 'application/json'}
        body = json.dumps(case.body, default=repr).encode()
        url = f'{small_server.url}{path}'
        check(httpx.post(url, content=body, headers=headers), count)

    send()
    print(f'\n{path}: {len(count)} requests')
    assert len(count) >= BY_SCHEMA


WRONG = [
    *[
        {'model': wrong}
        for wrong in (None, 1, [], {}, '', '../../etc/passwd', 'x' * 9999)
    ],
    *[{'messages': wrong} for wrong in ('hi', {}, [[]], [1], ['a'], [{}], [None])],
    *[
        {'messages': [{'role': 'user', 'content': wrong}]}
        for wrong in (1, {}, [1], [{'type': 'image_url'}], ['a'], None, 'x' * 9999)
    ],
    *[{'n': wrong} for wrong in (-1, 0, 99, 1.5, '1', [], True, 10**30)],
    *[{'max_tokens': wrong} for wrong in (-1, 0, 10**9, 1.5, '5', True, 10**400)],
    *[{'temperature': wrong} for wrong in (-0.1, 2.1, 'hot', [], 1e999, True)],
    *[{'top_p': wrong} for wrong in (-1, 0, 1.1, 'x')],
    *[{'top_k': wrong} for wrong in (-1, 1.5, 2**31)],
    *[{'seed': wrong} for wrong in (2**63, 0.5, 'x')],
    *[{'stop': wrong} for wrong in ('', [''], [1], 5, ['a'] * 5, 'x' * 201)],
    *[{'stream': wrong} for wrong in (1, 'true', [])],
    *[{'stream_options': wrong} for wrong in ([], {'x': 1}, 1)],
    *[{'top_logprobs': wrong} for wrong in (1, -1, 21, 'x')],
    *[{wrong: 1} for wrong in ('path', 'file', '__class__', 'logit_bias', 'tools', '')],
]


@pytest.mark.parametrize('stream', [False, True])
def test_bodies_by_hand(small_server, count, stream):
    for changes in WRONG:
        body = json.dumps({'stream': stream} | ASKS | changes)
        headers = {**small_server.headers, 'Content-Type': 'application/json'}
        url = f'{small_server.url}{CHAT}'
        check(httpx.post(url, content=body, headers=headers), count)
    assert len(count) == len(WRONG) > 60


@pytest.mark.parametrize('path', POSTS)
def test_bytes_by_hand(small_server, count, path):
    headers = {**small_server.headers, 'Content-Type': 'application/json'}
    url = f'{small_server.url}{path}'
    for body in (
        b'',
        b'null',
        b'{',
        b'{"model": "talker"',
        b'\xff\xfe\x00',
        b'{"model": "\xc3\x28"}',
        '{"model": "talker"}'.encode('utf-16'),
        b'{"model": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"model": NaN, "n": Infinity}',
        DEEP,
        b'[' * 40_000,
        b'9' * 40_000,
        b'\x00' * 100,
        b'x' * 50_001,
        b'{"model": "' + b'y' * 5_000_000 + b'"}',
    ):
        check(httpx.post(url, content=body, headers=headers), count)
    for kind in ('text/plain', 'application/xml', '', 'multipart/form-data'):
        given = headers | {'Content-Type': kind}
        check(httpx.post(url, content=b'{}', headers=given), count)

    def chunks():
        for _ in range(100):
            yield b'x' * 1000

    check(httpx.post(url, content=chunks(), headers=headers), count)


def test_places_and_tokens_by_hand(small_server, count):
    headers = small_server.headers
    for path in (
        '/v1/models/..%2f..%2f..%2fetc%2fpasswd',
        '/v1/models/%00',
        '/v1/models/%ff%fe',
        '/v1/models/' + 'x' * 8000,
        '/../../etc/passwd',
        '/%2e%2e/%2e%2e/etc/passwd',
        '/v1//models',
        '/v1/files',
        '/static/../setup.cfg',
        '/docs',
    ):
        check(httpx.get(small_server.url + path, headers=headers), count)
    for method in ('PUT', 'DELETE', 'PATCH', 'GET', 'OPTIONS', 'BREW'):
        url = small_server.url + CHAT
        check(httpx.request(method, url, headers=headers), count)
    for token in ('', 'Bearer', 'Bearer a b', 'Bearer wrong', 'Basic b3BlbjpzZXNhbWU='):
        for path in (*POSTS, '/v1/models', '/openapi.json'):
            given = {'Authorization': token, 'Content-Type': 'application/json'}
            method = 'POST' if path in POSTS else 'GET'
            url = small_server.url + path
            response = httpx.request(method, url, headers=given, json=ASKS)
            assert response.status_code == 401
            check(response, count)


@pytest.mark.parametrize(
    'request_bytes',
    [
        b'GET / HTTP/one\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',  # a TLS hello
        b'GET /' + b'a' * 100_000 + b' HTTP/1.1\r\n\r\n',
        b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n',
        b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n'
        b'Transfer-Encoding: chunked\r\n\r\nzz\r\n',
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_http(small_server, request_bytes):
    # The log may hold what uvicorn says of connections that break in its hands.
    with socket.create_connection(('127.0.0.1', small_server.port), 10) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
    assert not answer or answer.split()[1].startswith(b'4')
    assert b'Traceback' not in answer
    assert small_server.open() == 0
