"""What becomes of a request: its jobs and their random numbers."""

from fastapi import testclient
import pytest

from beaver_jax.serve import app as app_lib
from tests.serve import conftest


@pytest.fixture
def client(model):
    served = app_lib.Served({'talker': model}, None, conftest.LIMITS)
    yield testclient.TestClient(app_lib.make(served), 'http://localhost')
    served.votes.close()


def texts(client, **changes):
    body = {'model': 'talker', 'prompt': ['See the'] * 2, 'n': 2, 'max_tokens': 12}
    response = client.post('/v1/completions', json=body | changes)
    assert response.status_code == 200, response.text
    return [choice['text'] for choice in response.json()['choices']]


def test_equal_prompts_differ_but_for_a_seed(client):
    assert len(set(texts(client))) == 4
    first, second, *same = texts(client, seed=3)
    assert first != second and same == [first, second]
