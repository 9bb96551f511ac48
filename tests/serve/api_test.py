"""The API, through a client without a network."""

import dataclasses
import json

from fastapi import testclient
import pytest

from beaver_jax.serve import answers
from beaver_jax.serve import app as app_lib
from beaver_jax.serve import engine as engine_lib
from beaver_jax.serve import errors
from tests.serve import conftest
from tests.serve import engine_test

CHAT, COMPLETE = '/v1/chat/completions', '/v1/completions'
ASKS = [{'role': 'user', 'content': 'Who is there?'}]
ANSWERED = [*ASKS, {'role': 'assistant', 'content': 'I cannot say.'}]


def client_of(served):
    return testclient.TestClient(
        app_lib.make(served), 'http://localhost', raise_server_exceptions=False
    )


@pytest.fixture(scope='module')
def client(model, judge):
    return client_of(app_lib.Served({'talker': model}, judge, conftest.LIMITS))


def ask(client, path=CHAT, **changes):
    asked = {'messages': ASKS} if path == CHAT else {'prompt': 'See the'}
    given = {'model': 'talker', 'seed': 3, 'max_tokens': 12} | asked
    return client.post(path, json=given | changes)


def answered(client, path=CHAT, **changes):
    response = ask(client, path, **changes)
    assert response.status_code == 200, response.text
    return response.json()


def events(client, path=CHAT, **changes):
    response = ask(client, path, stream=True, **changes)
    assert response.status_code == 200, response.text
    assert response.headers['content-type'].startswith('text/event-stream')
    *lines, done = response.text.strip().split('\n\n')
    assert done == 'data: [DONE]'
    return [json.loads(line.removeprefix('data: ')) for line in lines]


def check_same(tokens, expected):
    """Tokens are the same, their log-probabilities but for the order of summation."""
    assert [one['token'] for one in tokens] == [one['token'] for one in expected]
    for one, other in zip(tokens, expected, strict=True):
        assert one['logprob'] == pytest.approx(other['logprob'], abs=1e-5)
        tops = [top['logprob'] for top in other['top_logprobs']]
        assert [top['logprob'] for top in one['top_logprobs']] == pytest.approx(
            tops, abs=1e-5
        )


def content(choice):
    return choice['message']['content']


# ---- Answers ------------------------------------------------------------------------


def test_models_are_listed(client):
    found = client.get('/v1/models').json()
    (card,) = found['data']
    assert card['id'] == 'talker' and client.get('/v1/models/talker').json() == card
    assert found['score_models'] == ['reward', 'harm']
    assert client.get('/health').json() == {'status': 'ok', 'open': {'talker': 0}}


def test_a_chat_answer(client, model):
    found = answered(client)
    assert found['object'] == 'chat.completion' and found['model'] == 'talker'
    (choice,) = found['choices']
    assert choice['message']['role'] == 'assistant' and content(choice)
    assert choice['finish_reason'] == 'length' and choice['logprobs'] is None
    prompt = len(model.encode_chat(('Who is there?',)))
    assert found['usage'] == {
        'prompt_tokens': prompt,
        'completion_tokens': 12,
        'total_tokens': prompt + 12,
    }
    assert answered(client)['choices'] == found['choices']  # the same seed
    assert answered(client, seed=4)['choices'] != found['choices']
    assert ask(client, seed=None).status_code == 200


def test_the_choices_of_one_request_are_several_and_each_its_own(client):
    found = answered(client, n=3)
    texts = [content(choice) for choice in found['choices']]
    assert [choice['index'] for choice in found['choices']] == [0, 1, 2]
    assert len(set(texts)) == 3 and texts[0] == content(answered(client)['choices'][0])
    assert found['usage']['completion_tokens'] == 36


def test_a_stream_tells_what_the_whole_answer_is(client):
    whole = answered(client, n=2, logprobs=True, top_logprobs=2)
    parts = events(
        client,
        n=2,
        logprobs=True,
        top_logprobs=2,
        stream_options={'include_usage': True},
    )
    assert {one['object'] for one in parts} == {'chat.completion.chunk'}
    assert len({one['id'] for one in parts}) == 1
    assert parts[-1]['choices'] == [] and parts[-1]['usage'] == whole['usage']
    assert all(one['usage'] is None for one in parts[:-1])
    for index, expected in enumerate(whole['choices']):
        mine = [c for one in parts for c in one['choices'] if c['index'] == index]
        assert mine[0]['delta'] == {'role': 'assistant', 'content': ''}
        text = ''.join(choice['delta'].get('content', '') for choice in mine)
        assert text == content(expected)
        assert [choice['finish_reason'] for choice in mine][:-1] == [None] * (
            len(mine) - 1
        )
        assert mine[-1]['finish_reason'] == expected['finish_reason']
        tokens = [t for c in mine if c['logprobs'] for t in c['logprobs']['content']]
        check_same(tokens, expected['logprobs']['content'])
        assert len(mine) > 4


def test_stop_strings_end_an_answer(client):
    text = content(answered(client, max_tokens=30)['choices'][0])
    for stop in (text[6:9], [text[6:9], 'never said']):
        (choice,) = answered(client, max_tokens=30, stop=stop)['choices']
        assert content(choice) == text[: text.index(text[6:9])]
        assert choice['finish_reason'] == 'stop'


def test_log_probabilities_of_a_chat(client):
    (choice,) = answered(client, logprobs=True, top_logprobs=1)['choices']
    tokens = choice['logprobs']['content']
    assert len(tokens) == 12
    assert ''.join(token['token'] for token in tokens) == content(choice)
    for token in tokens:
        assert bytes(token['bytes']).decode() == token['token']
        (top,) = token['top_logprobs']
        assert token['logprob'] <= top['logprob'] + 1e-6 <= 1e-6
        assert (token['logprob'] == top['logprob']) == (token['token'] == top['token'])
    (choice,) = answered(client, logprobs=True)['choices']
    assert choice['logprobs']['content'][0]['top_logprobs'] == []


def test_texts_and_ids_are_continued(client, model):
    ids = list(model.encode_text('See the'))
    texts = ['See the', 'Who is']
    found = answered(client, COMPLETE, prompt=texts, n=2)
    assert found['object'] == 'text_completion'
    assert [choice['index'] for choice in found['choices']] == [0, 1, 2, 3]
    one = answered(client, COMPLETE, n=2)
    assert [c['text'] for c in found['choices'][:2]] == [
        c['text'] for c in one['choices']
    ]
    assert answered(client, COMPLETE, prompt=ids, n=2)['choices'] == one['choices']
    assert answered(client, COMPLETE, prompt=[ids], n=2)['choices'] == one['choices']
    assert one['usage']['prompt_tokens'] == len(ids)
    parts = events(client, COMPLETE)
    text = ''.join(part['choices'][0]['text'] for part in parts)
    assert text == one['choices'][0]['text']


def test_log_probabilities_of_a_completion(client):
    (choice,) = answered(client, COMPLETE, logprobs=2)['choices']
    found = choice['logprobs']
    assert ''.join(found['tokens']) == choice['text']
    for token, start in zip(found['tokens'], found['text_offset'], strict=True):
        assert choice['text'][start:].startswith(token)
    for token, logp, top in zip(
        found['tokens'], found['token_logprobs'], found['top_logprobs'], strict=True
    ):
        assert len(top) == 2
        assert top.get(token, logp) == pytest.approx(logp, abs=1e-5)


def test_entries_that_ask_for_nothing_are_nothing(client):
    plain = answered(client)
    parts = [{'type': 'text', 'text': text} for text in ('Who is', ' there?')]
    same = answered(
        client,
        frequency_penalty=0,
        tools=None,
        logit_bias={},
        response_format={'type': 'text'},
        user='me',
        top_p=1,
        stop=None,
        messages=[{'role': 'user', 'content': parts}],
    )
    assert same['choices'] == plain['choices']


# ---- Errors -------------------------------------------------------------------------


def check(response, status, message, param=None):
    assert response.status_code == status, response.text
    body = errors.Body.model_validate(response.json()).error
    assert message in body.message
    assert param is None or body.param == param


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
        ({'messages': ANSWERED}, 400, "The last message must be of 'user'", None),
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
    check(ask(client, **changes), status, message, param)


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
    check(ask(client, COMPLETE, **changes), status, message)


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
    check(client.post(CHAT, content=body, headers=headers), status, message)


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
    check(client.request(method, path), status, '')


def test_a_token_is_asked_for(model):
    served = app_lib.Served({'talker': model}, None, conftest.LIMITS, 'sesame')
    client = client_of(served)
    for given in ({}, {'Authorization': 'Bearer Sesame'}, {'Authorization': 'sesame'}):
        response = client.get('/v1/models', headers=given)
        check(response, 401, 'Authorization: Bearer TOKEN')
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
    check(response, 503, 'More than 512 requests at a time')
    assert response.headers['Retry-After'] == '1'


def test_a_queue_that_is_full(client, model):
    # Three slots and five places.
    asked = [engine_test.Asked(model, limit=40) for _ in range(8)]
    model.engine.submit([one.job for one in asked])
    response = ask(client)
    check(response, 429, 'The model has 8 answers to give')
    assert response.headers['Retry-After'] == '1'
    model.engine.cancel([one.job for one in asked])
    engine_test.until(lambda: model.engine.open == 0)


def test_a_request_that_takes_too_long(client, model, monkeypatch):
    limits = dataclasses.replace(model.limits, seconds=1e-6)
    monkeypatch.setattr(model, 'limits', limits)
    check(ask(client), 504, 'The request took over 1e-06 seconds')
    *_, last = ask(client, stream=True).text.strip().split('\n\n')
    error = json.loads(last.removeprefix('data: '))['error']
    assert error['type'] == 'timeout_error'
    engine_test.until(lambda: model.engine.open == 0)


def test_a_fault_of_ours_tells_no_details(client, model, monkeypatch):
    def fail(jobs):
        jobs[0].deliver(answers.Delta('', (), 0, 'error'))

    monkeypatch.setattr(model.engine, 'submit', fail)
    check(ask(client), 500, 'The server failed; its log says how.')
    monkeypatch.setattr(model.engine, 'submit', lambda jobs: 1 / 0)
    response = ask(client)
    check(response, 500, 'The server failed; its log says how.')
    assert 'division' not in response.text


def test_a_model_that_has_failed_for_good(client, model, monkeypatch):
    def refuse(jobs):
        raise engine_lib.ClosedError

    monkeypatch.setattr(model.engine, 'submit', refuse)
    monkeypatch.setattr(model.engine, '_broken', True)
    check(ask(client), 503, 'The model has failed and answers no more')
    health = client.get('/health')
    check(health, 503, 'talker has failed and answers no more')
    assert health.json()['status'] == 'failed'


def test_a_server_that_ends_refuses(client, model, monkeypatch):
    def refuse(jobs):
        raise engine_lib.ClosedError

    monkeypatch.setattr(model.engine, 'submit', refuse)
    check(ask(client), 503, 'The server is shutting down')
