"""What becomes of each response of an endpoint."""

import datetime
import json

import pytest

from beaver_jax.evaluate.judges import replies


def completion(text, finish='stop', **more):
    choice = {'message': {'content': text}, 'finish_reason': finish}
    return json.dumps({'choices': [choice], **more})


@pytest.mark.parametrize(
    'status, headers, body, state, then, tokens, wait',
    [
        (200, {}, completion('ok', usage={'total_tokens': 7}), 'usable', 'done', 7, 0),
        (200, {}, completion('ok'), 'usable', 'done', None, 0),
        (200, {}, completion('no'), 'unusable', 'again', None, 0),
        (200, {}, completion(None), 'unusable', 'again', None, 0),
        (200, {}, completion('ok', 'length'), 'unusable', 'again', None, 0),
        (200, {}, completion('ok', 'content_filter'), 'unusable', 'give_up', None, 0),
        (200, {}, completion('ok')[:-4], 'unusable', 'again', None, 0),
        (200, {}, '[]', 'unusable', 'again', None, 0),
        (200, {}, '{"choices": []}', 'unusable', 'again', None, 0),
        (429, {'retry-after': '3'}, '', 'error', 'again', 0, 3),
        (429, {}, '{"error": {"code": "insufficient_quota"}}', 'error', 'stop', 0, 0),
        (500, {}, '<html>', 'error', 'again', 0, 0),
        (503, {'retry-after': '9999'}, '', 'error', 'again', 0, 600),
        (400, {}, '{"error": {"message": "too long"}}', 'error', 'give_up', 0, 0),
        (401, {}, '{"error": "who?"}', 'error', 'stop', 0, 0),
        (404, {}, '', 'error', 'stop', 0, 0),
        (301, {}, '', 'error', 'stop', 0, 0),
    ],
)
def test_responses(status, headers, body, state, then, tokens, wait):
    reply = replies.read(status, headers, body, lambda text: text == 'ok')
    assert (reply.state, reply.then) == (state, then)
    assert (reply.tokens, reply.wait) == (tokens, wait)
    assert bool(reply.reason) == (state != 'usable')


def test_retry_after_may_be_a_date():
    now = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)
    wait = replies.retry_after('Thu, 01 Jan 2026 12:00:30 GMT', now)
    assert wait == 30
    assert replies.retry_after('Thu, 01 Jan 2026 11:00:00 GMT', now) == 0
    for value in ('', 'soon', 'nan', 'inf', '-5'):
        assert replies.retry_after(value) == 0
