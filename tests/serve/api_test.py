"""Answers of the API, through a client without a network."""

import json

import pytest

from tests.serve import asking

CHAT, COMPLETE = asking.CHAT, asking.COMPLETE


def answered(client, path=CHAT, **changes):
    response = asking.ask(client, path, **changes)
    assert response.status_code == 200, response.text
    return response.json()


def events(client, path=CHAT, **changes):
    response = asking.ask(client, path, stream=True, **changes)
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
    assert asking.ask(client, seed=None).status_code == 200


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
