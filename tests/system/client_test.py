"""OpenAI's own client, and clients that leave, wait and are too many."""

import concurrent.futures
import time

import httpx
import openai
import pytest

from tests.system import server as server_lib

ASKS = [{'role': 'user', 'content': 'Who is there?'}]
LONG = {'model': 'talker', 'messages': ASKS, 'max_tokens': 600, 'temperature': 0}
LONGEST = LONG | {'max_tokens': 2000}
SHORT = LONG | {'max_tokens': 3}


@pytest.fixture(scope='module')
def client(small_server):
    return openai.OpenAI(
        base_url=f'{small_server.url}/v1', api_key=server_lib.TOKEN, max_retries=0
    )


def ask(client, **changes):
    given = {'model': 'talker', 'messages': ASKS, 'max_tokens': 24, 'seed': 5}
    return client.chat.completions.create(**(given | changes))


# ---- OpenAI's client ----------------------------------------------------------------


def test_models(client):
    assert [model.id for model in client.models.list()] == ['talker']
    assert client.models.retrieve('talker').owned_by == 'beaver_jax'


def test_streaming_is_what_is_answered_at_once(client):
    whole = ask(client, n=2)
    texts, finishes, usage = ['', ''], {}, None
    chunks = list(ask(client, n=2, stream=True, stream_options={'include_usage': True}))
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ''
            finishes[choice.index] = choice.finish_reason or ''
    assert texts == [choice.message.content for choice in whole.choices]
    assert finishes == {i: c.finish_reason for i, c in enumerate(whole.choices)}
    assert usage == whole.usage and len(chunks) > 10


def test_stop_strings(client):
    text = ask(client).choices[0].message.content
    (choice,) = ask(client, stop=[text[8:11]]).choices
    assert choice.message.content == text[: text.index(text[8:11])]
    assert choice.finish_reason == 'stop'


def test_log_probabilities(client):
    (choice,) = ask(client, logprobs=True, top_logprobs=3, temperature=0).choices
    tokens = choice.logprobs.content
    assert ''.join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-5)


def test_completions(client):
    found = client.completions.create(
        model='talker', prompt=['See the', 'Who is'], max_tokens=8, seed=1, logprobs=1
    )
    assert [choice.index for choice in found.choices] == [0, 1]
    for choice in found.choices:
        assert ''.join(choice.logprobs.tokens) == choice.text
    stream = client.completions.create(
        model='talker', prompt='See the', max_tokens=8, seed=1, stream=True
    )
    assert ''.join(c.choices[0].text for c in stream) == found.choices[0].text


def test_scores(small_server):
    messages = [*ASKS, {'role': 'assistant', 'content': 'I cannot say.'}]
    found = httpx.post(
        f'{small_server.url}/v1/score',
        json={'conversations': [messages, messages]},
        headers=small_server.headers,
    ).json()
    assert found['data'][0]['reward'] == pytest.approx(found['data'][1]['reward'])
    assert list(found['data'][0]['costs']) == ['harm']


@pytest.mark.parametrize(
    ('changes', 'error'),
    [
        ({'model': 'gpt'}, openai.NotFoundError),
        ({'max_tokens': 2001}, openai.BadRequestError),
        ({'temperature': 9}, openai.UnprocessableEntityError),
        ({'tools': [{'type': 'function'}]}, openai.BadRequestError),
    ],
    ids=str,
)
def test_errors_are_those_of_the_client(client, changes, error):
    with pytest.raises(error) as caught:
        ask(client, **changes)
    assert caught.value.body['message'] and caught.value.type


def test_another_token_is_refused(client):
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key='open'))


# ---- Who is too many, and who leaves ------------------------------------------------


def post(server, body):
    return httpx.post(
        f'{server.url}/v1/chat/completions',
        json=body,
        headers=server.headers,
        timeout=400,
    )


def test_past_the_queue_requests_are_refused_and_none_is_lost(small_server):
    # Two slots and two places.
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: post(small_server, LONG), range(12)))
    statuses = [response.status_code for response in found]
    assert set(statuses) == {200, 429}
    assert 4 <= statuses.count(200) < 12
    good = [response.json()['choices'] for response in found if response.is_success]
    assert all(choices == good[0] for choices in good)
    refused = next(response for response in found if not response.is_success)
    assert refused.json()['error']['code'] == 'rate_limit_exceeded'
    assert small_server.open() == 0


@pytest.mark.parametrize('stream', [True, False])
def test_who_leaves_frees_its_slots(small_server, stream):
    start = time.perf_counter()
    assert post(small_server, LONGEST).is_success
    whole = time.perf_counter() - start
    url = f'{small_server.url}/v1/chat/completions'
    with httpx.Client(headers=small_server.headers) as leaving:
        request = leaving.build_request(
            'POST', url, json=LONGEST | {'n': 4, 'stream': stream}
        )
        if stream:
            response = leaving.send(request, stream=True)
            lines = response.iter_lines()  # which hangs up when nobody holds it
            next(lines)
            # All slots and places are taken.
            assert leaving.post(url, json=SHORT).status_code == 429
            response.close()
        else:
            request.extensions['timeout'] = {'read': 0.2}
            with pytest.raises(httpx.ReadTimeout):
                leaving.send(request)
    start = time.perf_counter()
    small_server.until(lambda: small_server.open() == 0)
    # Four answers in two slots would take twice as long as one.
    assert time.perf_counter() - start < whole / 2
    assert post(small_server, SHORT).is_success


def test_sigterm_finishes_what_runs_and_refuses_what_is_new(start):
    server = start(
        'slow', slots=2, queue=2, prompts=1, prompt_tokens=64, answer_tokens=600
    )
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        bodies = [LONG | {'stream': i == 1} for i in range(3)]
        running = [pool.submit(post, server, body) for body in bodies]
        server.until(lambda: server.open() == 3)
        server.process.terminate()

        def refused():
            try:
                return post(server, SHORT).status_code == 503
            except httpx.TransportError:
                return True

        server.until(refused)
        # The third waits for a slot of the other two.
        assert not all(one.done() for one in running)
        found = [one.result() for one in running]
    assert [response.status_code for response in found] == [200] * 3
    for response in (found[0], found[2]):
        assert response.json()['usage']['completion_tokens'] == 600
    assert found[1].text.endswith('data: [DONE]\n\n')
    assert server.process.wait(timeout=60) == 0
    assert server.log.endswith('serve: finished\n')
    assert 'Traceback' not in server.log
