import asyncio
import collections
import copy
import json
import re
from typing import Any

from fastapi import testclient
import pytest

from beaver_jax.serve import answers
from beaver_jax.serve import app as app_lib
from beaver_jax.serve import arena
from beaver_jax.serve import engine as engine_lib
from beaver_jax.serve import errors
from beaver_jax.serve import exchange
from beaver_jax.serve import votes as votes_lib
from tests.serve import conftest

ASKS = [{'role': 'user', 'content': 'Who is there?'}]


@pytest.fixture
def client(model, monkeypatch):
    # With other seeds an answer may end before its first word.
    monkeypatch.setattr(exchange.secrets, 'randbits', lambda bits: 7)
    # Two names of one model: who answers is decided by the names alone.
    other = copy.copy(model)
    other.name = 'other'
    served = app_lib.Served({'talker': model, 'other': other}, None, conftest.LIMITS)
    yield testclient.TestClient(app_lib.make(served), 'http://localhost')
    served.votes.close()


def fight(client, **more):
    response = client.post('/arena/battles', json={'a': ASKS, 'b': ASKS} | more)
    assert response.status_code == 200, response.text
    for name in ('talker', 'other'):
        assert name not in response.text  # it is blind
    assert response.headers['cache-control'] == 'no-cache'
    assert response.headers['x-accel-buffering'] == 'no'
    first, *others, done = response.text.strip().split('\n\n')
    assert done == 'data: [DONE]'
    texts = collections.Counter()
    for line in others:
        event = json.loads(line.removeprefix('data: '))
        texts[event['side']] += len(event['text'])
    assert texts['a'] and texts['b']
    return json.loads(first.removeprefix('data: '))['battle']


def vote(client, battle, vote):
    return client.post('/arena/votes', json={'battle': battle, 'vote': vote})


def test_a_battle_is_voted_on_once_and_names_are_told_then(client):
    battle = fight(client)
    found = vote(client, battle, 'a').json()
    assert {found['a'], found['b']} == {'talker', 'other'}
    rows = found['ratings']
    assert [row['votes'] for row in rows] == [1, 1]
    by_name = {row['model']: row['rating'] for row in rows}
    # One win of one: 400·log10((1 + ½) / (0 + ½)) = 400·0.4771 = 190.8 points.
    assert by_name[found['a']] - by_name[found['b']] == pytest.approx(190.85, abs=0.01)
    assert by_name['talker'] == 1000
    assert client.get('/arena/ratings').json()['ratings'] == rows
    assert vote(client, battle, 'b').status_code == 404


def test_each_model_is_sometimes_on_each_side(client):
    firsts = {vote(client, fight(client), 'tie').json()['a'] for _ in range(12)}
    assert firsts == {'talker', 'other'}  # both sides one model: 2 of 4,096 cases


def test_a_battle_goes_on_with_its_models(client):
    battle = fight(client)
    assert fight(client, battle=battle) == battle
    assert vote(client, battle, 'bad').status_code == 200
    gone = client.post('/arena/battles', json={'a': ASKS, 'b': ASKS, 'battle': battle})
    assert gone.status_code == 404


def fail(model, monkeypatch, error=None):
    """Lets no further question be answered; told at once, or while it is streamed."""

    def submit(jobs):
        if error is not None:
            raise error
        jobs[0].deliver(answers.Delta('', (), 0, 'error'))

    monkeypatch.setattr(model.engine, 'submit', submit)


@pytest.mark.parametrize('error', [None, engine_lib.BusyError()], ids=str)
def test_a_follow_up_that_fails_leaves_the_answers_before_it(
    client, model, monkeypatch, error
):
    battle = fight(client)
    fail(model, monkeypatch, error)
    more = {'a': ASKS, 'b': ASKS, 'battle': battle}
    response = client.post('/arena/battles', json=more)
    assert '"error"' in response.text
    for name in ('talker', 'other'):
        assert name not in response.text
    assert vote(client, battle, 'a').status_code == 200


def test_a_question_that_is_stopped_holds_up_no_vote(model):
    class Silent:
        """A model that says nothing."""

        async def deltas(self):
            await asyncio.Event().wait()
            yield

        def cancel(self):
            pass

    held = arena.Arena([model, model], votes_lib.Votes(''))
    name, battle = held.begin(arena.BattleRequest(a=ASKS, b=ASKS))
    battle.answered = True  # before
    ballot = arena.VoteRequest(battle=name, vote='a')
    asked: list[Any] = [Silent(), Silent()]

    async def stop():
        stream = arena._stream(name, battle, asked)
        await anext(stream)
        with pytest.raises(errors.ApiError, match='not finished'):
            held.vote(ballot)
        await stream.aclose()

    asyncio.run(stop())
    assert held.vote(ballot)['a'] == 'talker'


def test_nobody_votes_before_the_answers_are_there(model):
    held = arena.Arena([model, model], votes_lib.Votes(''))
    name, _ = held.begin(arena.BattleRequest(a=ASKS, b=ASKS))
    with pytest.raises(Exception, match='not finished'):
        held.vote(arena.VoteRequest(battle=name, vote='a'))


def test_of_two_votes_at_once_one_counts(model, monkeypatch):
    votes = votes_lib.Votes('')
    held = arena.Arena([model, model], votes)
    name, battle = held.begin(arena.BattleRequest(a=ASKS, b=ASKS))
    battle.answered = True
    add = votes.add

    def second(*row):
        assert add(*row)  # another one comes first
        return add(*row)

    monkeypatch.setattr(votes, 'add', second)
    with pytest.raises(errors.ApiError, match='it has its vote'):
        held.vote(arena.VoteRequest(battle=name, vote='a'))


def test_a_vote_that_cannot_be_stored_can_be_given_again(model, monkeypatch):
    votes = votes_lib.Votes('')
    held = arena.Arena([model, model], votes)
    name, battle = held.begin(arena.BattleRequest(a=ASKS, b=ASKS))
    battle.answered = True
    ballot = arena.VoteRequest(battle=name, vote='a')
    with monkeypatch.context() as full, pytest.raises(ZeroDivisionError):
        full.setattr(votes, 'add', lambda *row: 1 / 0)
        held.vote(ballot)
    assert held.vote(ballot)['a'] == 'talker'


def test_one_model_has_nobody_to_fight(model):
    served = app_lib.Served({'talker': model}, None, conftest.LIMITS)
    client = testclient.TestClient(app_lib.make(served), 'http://localhost')
    response = client.post('/arena/battles', json={'a': ASKS, 'b': ASKS})
    assert response.status_code == 404
    assert 'needs two models' in response.json()['error']['message']


def test_votes_stay_in_their_file(tmp_path):
    path = str(tmp_path / 'votes.sqlite')
    votes = votes_lib.Votes(path)
    assert votes.add('1', 'x', 'y', 'a') and votes.add('2', 'y', 'x', 'bad')
    assert not votes.add('1', 'x', 'y', 'b')  # it has its vote
    votes.add('3', 'far', 'away', 'a')  # joined to the others by nobody
    votes.close()
    votes = votes_lib.Votes(path)
    rows = votes.ratings(['y', 'x', 'far', 'away'])
    assert [row['model'] for row in rows] == ['x', 'y', 'far', 'away']
    # x has 1½ wins of 2: 400·log10((1½ + ½) / (½ + ½)) = 400·log10(2) = 120.4.
    assert rows[0]['rating'] == pytest.approx(1120.41, abs=0.01)
    assert rows[0]['low'] < 1000 < rows[0]['rating'] < rows[0]['high']
    assert [row['rating'] for row in rows[1:]] == [1000, None, None]
    assert votes.ratings(['gone', 'x'])[0]['rating'] is None
    votes.close()


def test_a_file_that_holds_no_votes(tmp_path):
    (tmp_path / 'text').write_text('no database at all, but a text')
    with pytest.raises(OSError, match=r'--votes=.*file is not a database'):
        votes_lib.Votes(str(tmp_path / 'text'))


def test_the_page_needs_nothing_from_elsewhere_and_makes_no_markup(client):
    response = client.get('/')
    html = response.text
    assert response.headers['content-security-policy'] == arena.policy(html)
    assert "default-src 'none'" in arena.policy(html)
    assert not re.search(r'https?://|@import|url\(', html)
    for way in ('innerHTML', 'outerHTML', 'insertAdjacent', 'document.write', 'eval('):
        assert way not in html
    assert not re.search(r'\s(on\w+|style)=', html)  # which the policy forbids
