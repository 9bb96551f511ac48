"""Comparisons over HTTP: what is asked, once, within its budget, and what is kept."""

import collections
import json
import sqlite3

import pytest

from beaver_jax.evaluate import judges
from beaver_jax.evaluate.judges import endpoint as endpoint_lib
from beaver_jax.evaluate.judges import prompts
from tests import judge_stub

KEY = 'sk-secret-of-a-test'


def items(count):
    """Of prompt i, 'base' is worth 5, 'more' i, and 'same' what base is."""
    return [
        judges.Item(
            (f'Question {i}?',),
            ('even', 'odd')[i % 2],
            {'base': 'score=5', 'more': f'score={i}', 'same': 'score=5'},
        )
        for i in range(count)
    ]


def expected(i):
    return 'tie' if i == 5 else 'b' if i > 5 else 'a'


def compare(stub, directory, count=8, **changes):
    return judges.compare(
        judge_stub.settings(stub.url, **changes),
        items(count),
        'base',
        directory / 'judge.sqlite',
    )


def answered(directory):
    """The questions to which a usable answer is stored."""
    base = sqlite3.connect(directory / 'judge.sqlite')
    rows = base.execute("SELECT question FROM calls WHERE state = 'usable'").fetchall()
    base.close()
    return [question for (question,) in rows]


def test_both_orders_are_asked_once_and_equal_answers_not_at_all(tmp_path):
    with judge_stub.serve() as stub:
        found = compare(stub, tmp_path)
        # 'more' in two dimensions and two orders; prompt 5 and 'same' are equal texts.
        assert stub.count('good') == 7 * 2 * 2
        assert found.totals == (28, 28 * judge_stub.TOKENS)
        again = compare(stub, tmp_path)
        assert stub.count('good') == 28
    assert again == found
    assert len(found.comparisons) == 8 * 2 * 2
    for one in found.comparisons:
        told = expected(one.prompt) if one.model_b == 'more' else 'tie'
        assert (one.model_a, one.orders) == ('base', (told, told))
    every = [request for _, request in stub.calls]
    assert all(request['temperature'] == 0 for request in every)
    assert all(request['max_tokens'] == 512 for request in every)
    # Not in one order twice.
    assert len({json.dumps(request) for request in every}) == 28


def test_all_pairs(tmp_path):
    with judge_stub.serve() as stub:
        found = compare(stub, tmp_path, 3, pairs='all', dimensions='helpfulness')
        # same against more asks what base against more does, in the other order.
        assert stub.count('good') == 3 * 2
    pairs = collections.Counter((x.model_a, x.model_b) for x in found.comparisons)
    assert pairs == {('base', 'more'): 3, ('base', 'same'): 3, ('more', 'same'): 3}


def test_a_preference_that_flips_is_a_tie(tmp_path):
    item = judges.Item(('BIASED?',), '', {'base': 'one', 'more': 'other'})
    with judge_stub.serve() as stub:
        found = judges.compare(
            judge_stub.settings(stub.url, dimensions='harmlessness'),
            [item],
            'base',
            tmp_path / 'x',
        )
    (one,) = found.comparisons
    # A both times: base where it came first, more where that did.
    assert one.orders == ('a', 'b')
    assert (one.outcome, one.flipped) == ('tie', True)


def test_faults_lose_nothing(tmp_path):
    with judge_stub.serve(judge_stub.FAULTS, seed=1) as stub:
        found = compare(
            stub, tmp_path, attempts=40, concurrency=6, timeout=judge_stub.SLOW / 2
        )
        assert len(stub.calls) == found.totals.calls
        assert stub.most_flying >= 2
        assert all(stub.count(fault) for fault in judge_stub.FAULTS)
        assert len(answered(tmp_path)) == len(set(answered(tmp_path))) == 28
    assert [x.outcome for x in found.comparisons if x.model_b == 'more'] == [
        expected(i) for i in range(8) for _ in range(2)
    ]
    # After a reply that was of no use the question has a reminder, until then not.
    for done, request in stub.calls:
        if done in ('off', 'cut'):
            texts = [json.dumps(r) for _, r in stub.calls]
            with_reminder = json.dumps(
                request | {'messages': prompts.reminded(request['messages'])}
            )
            reminder_there = prompts.REMINDER in request['messages'][-1]['content']
            assert reminder_there or with_reminder in texts


def test_after_the_last_attempt_a_comparison_has_failed(tmp_path):
    with judge_stub.serve({'off': 1}) as stub:
        found = compare(stub, tmp_path, 1, attempts=3)
        one = found.comparisons[0]
        assert (one.outcome, one.orders) == ('failed', ('failed', 'failed'))
        assert one.reason == 'the reply has no verdict'
        # Each of four questions three times. What was paid for is not paid again.
        assert stub.count('off') == 12
        assert compare(stub, tmp_path, 1, attempts=3) == found
        assert stub.count('off') == 12
        compare(stub, tmp_path, 1, attempts=4)
        assert stub.count('off') == 16


def test_what_failed_without_an_answer_is_asked_again(tmp_path):
    with judge_stub.serve({'500': 1}) as stub:
        found = compare(stub, tmp_path, 1, attempts=2)
        assert {x.outcome for x in found.comparisons if x.model_b == 'more'} == {
            'failed'
        }
        assert found.comparisons[0].reason == 'HTTP 500: overloaded'
        assert found.totals == (8, 0)
        stub.weights = {'good': 1}
        found = compare(stub, tmp_path, 1, attempts=2)
    assert {x.outcome for x in found.comparisons} == {'a', 'tie'}
    assert found.totals == (12, 4 * judge_stub.TOKENS)


@pytest.mark.parametrize('concurrency', [1, 16])
def test_the_budget_of_calls_is_never_exceeded(concurrency, tmp_path):
    with judge_stub.serve(judge_stub.FAULTS, seed=2) as stub:
        stub.delay = 0.005
        found = compare(
            stub,
            tmp_path,
            max_calls=17,
            attempts=9,
            concurrency=concurrency,
            timeout=judge_stub.SLOW / 2,
        )
        assert len(stub.calls) == 17
    assert found.totals.calls == 17
    failed = [x for x in found.comparisons if x.outcome == 'failed']
    assert failed
    assert failed[-1].reason == 'the budget: max_calls=17 are spent'
    # None is lost, and none is guessed.
    assert len(found.comparisons) == 8 * 2 * 2
    for one in found.comparisons:
        if one.model_b == 'more' and one.outcome != 'failed':
            assert one.outcome == expected(one.prompt)


def test_the_budget_of_tokens_is_never_exceeded(tmp_path):
    # A question of about 2,300 bytes and a reply of 512 tokens are reserved at a time;
    # 100 are used. So of 5,000 tokens 20 calls and more are made, and never above.
    with judge_stub.serve() as stub:
        found = compare(stub, tmp_path, 16, max_total_tokens=5000, concurrency=16)
        assert len(stub.calls) * judge_stub.TOKENS == found.totals.tokens <= 5000
        assert len(stub.calls) >= 15
    reasons = {x.reason for x in found.comparisons} - {''}
    assert reasons == {'the budget: max_total_tokens=5000 are spent'}


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('A_KEY', KEY)
    with judge_stub.serve({'good': 1}) as stub:
        compare(stub, tmp_path, 1, key_variable='A_KEY')
        assert stub.keys == {f'Bearer {KEY}'}
        stub.status = 400  # and an error that shows it
        found = compare(stub, tmp_path, 2, key_variable='A_KEY')
        reasons = {x.reason for x in found.comparisons} - {''}
        assert reasons == {'HTTP 400: bad key Bearer ***'}
        stub.status = 401
        with pytest.raises(endpoint_lib.EndpointError, match='HTTP 401: bad') as raised:
            compare(stub, tmp_path, 3, key_variable='A_KEY')
    assert KEY not in str(raised.value)
    assert KEY not in caplog.text
    files = list(tmp_path.iterdir())
    assert [file.name for file in files] == ['judge.sqlite']
    assert KEY.encode() not in files[0].read_bytes()
    assert KEY not in repr(judge_stub.settings(stub.url, key_variable='A_KEY'))


def test_an_endpoint_that_refuses_ends_it_at_once(tmp_path):
    with judge_stub.serve() as stub:
        stub.status = 403
        with pytest.raises(endpoint_lib.EndpointError, match='refuses to answer as'):
            judges.check(judge_stub.settings(stub.url))
        with pytest.raises(endpoint_lib.EndpointError, match='refuses to answer as'):
            compare(stub, tmp_path, concurrency=2)
        assert len(stub.calls) <= 4  # not the 28 that were wanted
        stub.status = 0
        judges.check(judge_stub.settings(stub.url))  # 404: it does not list its models
        for stub.status in (301, 401, 402, 405):
            with pytest.raises(endpoint_lib.EndpointError, match=f'{stub.status}'):
                judges.check(judge_stub.settings(stub.url))
    with pytest.raises(endpoint_lib.EndpointError, match=r'cannot be reached \(Conn'):
        judges.check(judge_stub.settings(stub.url))


def test_raw_answers_are_kept(tmp_path):
    with judge_stub.serve({'off': 1, 'good': 1}, seed=3) as stub:
        compare(stub, tmp_path, 2)
    base = sqlite3.connect(tmp_path / 'judge.sqlite')
    rows = base.execute('SELECT request, state, reason, body FROM calls').fetchall()
    base.close()
    assert {state for _, state, _, _ in rows} == {'usable', 'unusable'}
    sent = collections.Counter(json.dumps(request) for _, request in stub.calls)
    assert collections.Counter(request for request, *_ in rows) == sent
    for _, state, reason, body in rows:
        text = json.loads(body)['choices'][0]['message']['content']
        assert text.startswith('They differ.')
        assert (prompts.verdict(text) is None) == (state == 'unusable') == bool(reason)
