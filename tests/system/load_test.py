"""Many clients at once."""

import asyncio
import itertools
import time

import httpx
import pytest

from tests import compiling

CLIENTS, REQUESTS, DISTINCT = 64, 2000, 80
WORDS = 'see the book who is there how do I bake bread mix flour knead dough'


@pytest.fixture(scope='module')
def server(start):
    return start(
        'talker',
        compiled=compiling.AS_USERS_DO,
        slots=64,
        queue=64,
        prompts=16,
        prompt_tokens=64,
        answer_tokens=200,
        chunk=8,
    )


def requests():
    """Requests of mixed lengths, prompts, samplers and stop strings."""
    samplers = [
        {'temperature': 0},
        {},
        {'temperature': 0.7, 'top_p': 0.8},
        {'temperature': 1.3, 'top_k': 20, 'repetition_penalty': 1.2},
        {'stop': ['th', 'ee']},
    ]
    return [
        {
            'model': 'talker',
            'messages': [{'role': 'user', 'content': WORDS[: 7 + i % 60]}],
            'max_tokens': 8 + 37 * i % 187,
            'seed': i,
            'logprobs': i % 7 == 0,
            **samplers[i % 5],
        }
        for i in range(DISTINCT)
    ]


async def answer(client, body):
    response = await client.post('/v1/chat/completions', json=body)
    assert response.status_code == 200, response.text
    found = response.json()
    (choice,) = found['choices']
    return choice['message']['content'], choice['finish_reason'], found['usage']


async def by_clients(url, bodies, count):
    """Answers of so many clients that take the next request as soon as they can."""
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    waiting = iter(enumerate(bodies))
    found = [None] * len(bodies)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:

        async def work():
            for i, body in waiting:
                found[i] = await answer(client, body)

        start = time.perf_counter()
        await asyncio.gather(*[work() for _ in range(count)])
        return found, time.perf_counter() - start


def test_every_answer_is_what_it_is_alone_and_many_are_faster(server):
    distinct = requests()
    asyncio.run(by_clients(server.url, distinct[:8], 1))
    alone, slow = asyncio.run(by_clients(server.url, distinct, 1))
    assert len({text for text, _, _ in alone}) == DISTINCT
    bodies = list(itertools.islice(itertools.cycle(distinct), REQUESTS))
    together, fast = asyncio.run(by_clients(server.url, bodies, CLIENTS))
    expected = list(itertools.islice(itertools.cycle(alone), REQUESTS))
    wrong = [i for i in range(REQUESTS) if together[i] != expected[i]]
    assert not wrong, [(together[i], expected[i]) for i in wrong[:3]]
    ratio = (REQUESTS / fast) / (DISTINCT / slow)
    tokens = sum(usage['completion_tokens'] for _, _, usage in alone)
    print(
        f'\n{DISTINCT / slow:.1f} requests/s one at a time ({tokens / slow:.0f} '
        f'tokens/s), {REQUESTS / fast:.1f} of {CLIENTS} clients '
        f'({tokens * REQUESTS / DISTINCT / fast:.0f} tokens/s): {ratio:.1f} times'
    )
    assert ratio >= 4
    assert server.open() == 0
    assert 'Traceback' not in server.log
