"""Scores through the API."""

import functools

import jax
import jax.numpy as jnp
import pytest

from beaver_jax import scoring
from beaver_jax.models import score
from beaver_jax.serve import app as app_lib
from beaver_jax.serve import engine as engine_lib
from tests.serve import asking
from tests.serve import conftest

SCORE = '/v1/score'
ASKS, ANSWERED = asking.ASKS, asking.ANSWERED


def texts(messages):
    return [message['content'] for message in messages]


def numbers(found):
    """The scores of a conversation by model."""
    assert set(found['costs']) == {'harm'}
    return {'reward': found['reward'], **found['costs']}


def end_score(model, ids):
    """The end score of ids alone, without padding."""
    tokens = jnp.array([ids])
    score_ids = jax.jit(functools.partial(scoring.end_scores, model.model))
    unused = score.init_normalizer(1)
    found = score_ids(model._params, unused, tokens, jnp.ones(tokens.shape, bool))
    return float(found[0, 0])


def test_scores_are_those_of_the_models(client, judge):
    longer = [*ANSWERED, *ASKS, {'role': 'assistant', 'content': 'See the book.'}]
    response = client.post(SCORE, json={'conversations': [ANSWERED, longer, ANSWERED]})
    data = response.json()['data']
    assert [one['index'] for one in data] == [0, 1, 2]
    for name, value in numbers(data[1]).items():
        model = judge.models[name]
        expected = end_score(model, model.encode(texts(longer)))
        assert value == pytest.approx(expected, abs=1e-5)
    assert data[0]['reward'] == pytest.approx(data[2]['reward'], abs=1e-5)
    assert abs(data[0]['reward'] - data[1]['reward']) > 1e-3
    single = client.post(SCORE, json={'messages': ANSWERED}).json()['data']
    assert single[0]['reward'] == pytest.approx(data[0]['reward'], abs=1e-6)


def test_an_answer_that_was_cut_has_no_eos(client, judge):
    asked = {'messages': ANSWERED}
    (found,) = client.post(SCORE, json=asked | {'ended': False}).json()['data']
    for name, value in numbers(found).items():
        model = judge.models[name]
        *cut, eos = model.encode(texts(ANSWERED))
        assert eos == model.tokenizer.eos_token_id
        assert value == pytest.approx(end_score(model, cut), abs=1e-5)
    (whole,) = client.post(SCORE, json=asked).json()['data']
    assert abs(whole['reward'] - found['reward']) > 1e-3
    # Nothing and its end are an answer; nothing alone is none.
    empty = {'messages': [*ASKS, {'role': 'assistant', 'content': ''}]}
    assert client.post(SCORE, json=empty).status_code == 200
    refused = client.post(SCORE, json=empty | {'ended': False})
    asking.check(refused, 400, 'There is no answer to score', 'ended')


def test_a_token_is_counted_once_for_each_model_that_reads_it(client, judge):
    one, other = (len(m.encode(texts(ANSWERED))) for m in judge.models.values())
    tokens = 2 * (one + other)  # two conversations, two models
    response = client.post(SCORE, json={'conversations': [ANSWERED] * 2})
    assert response.json()['usage'] == {
        'prompt_tokens': tokens,
        'completion_tokens': 0,
        'total_tokens': tokens,
    }


@pytest.mark.parametrize(
    ('body', 'status', 'message'),
    [
        ({}, 400, 'Give either messages, one conversation, or conversations'),
        ({'messages': ANSWERED, 'conversations': [ANSWERED]}, 400, 'Give either'),
        ({'messages': ASKS}, 400, "The last message must be of 'assistant'"),
        ({'conversations': []}, 422, 'at least 1 item'),
        ({'conversations': [ANSWERED] * 7}, 400, '7 conversations; at most 6'),
        (
            {'messages': [*ANSWERED * 9]},
            400,
            'tokens; at most 64',
        ),
    ],
    ids=str,
)
def test_what_cannot_be_scored(client, body, status, message):
    asking.check(client.post(SCORE, json=body), status, message)


def test_more_conversations_than_may_wait_now(client, judge, monkeypatch):
    def refuse(conversations):
        raise engine_lib.BusyError

    monkeypatch.setattr(judge, 'submit', refuse)
    response = client.post(SCORE, json={'conversations': [ANSWERED] * 6})
    asking.check(response, 429, 'Too many conversations wait')
    assert response.headers['Retry-After'] == '1'


def test_without_score_models_there_are_no_scores(model):
    client = asking.client_of(app_lib.Served({'talker': model}, None, conftest.LIMITS))
    response = client.post(SCORE, json={'messages': ANSWERED})
    asking.check(response, 404, 'There is no reward or cost model')
    assert client.get('/v1/models').json()['score_models'] == []
