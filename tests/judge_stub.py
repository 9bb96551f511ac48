"""A judge that is no model: an OpenAI-compatible server with faults at random.

An answer may say `score=N`, else its length is its score; the larger is better. On a
prompt with BIASED the first answer wins, whatever it is.
"""

from collections.abc import Iterator, Mapping
import contextlib
import http.server
import json
import random
import re
import threading
import time
from typing import Any

from beaver_jax import fragments
from beaver_jax.evaluate import judges

# The weight of each fault beside 'good'.
FAULTS = {'good': 8, '429': 1, '500': 1, 'slow': 0.7, 'cut': 1, 'off': 1, 'broken': 1}
SLOW = 2.0  # seconds, twice as long as a client of these tests waits
TOKENS = 100  # that every completion says it has used


class Stub:
    """A server, and what it was asked."""

    def __init__(self, weights: Mapping[str, float], seed: int):
        self.lock = threading.Lock()
        # (what was done, the request), in the order in which they came.
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str | None] = set()  # Authorization headers
        self.flying = self.most_flying = 0
        self.weights, self._random = weights, random.Random(seed)
        self.url = ''
        self.delay = 0.0
        self.status = 0  # if set, of every response

    def choose(self, request: dict[str, Any]) -> str:
        names, weights = zip(*self.weights.items(), strict=True)
        with self.lock:
            (done,) = self._random.choices(names, weights)
            self.calls.append((done, request))
            self.flying += 1
            self.most_flying = max(self.most_flying, self.flying)
            return done

    def count(self, *done: str) -> int:
        return sum(what in done for what, _ in self.calls)


def options(stub: Stub) -> dict[str, Any]:
    """Overrides of an evaluation's config by which a stub judges helpfulness."""
    return {
        'judge.url': stub.url,
        'judge.model': 'stub',
        'judge.key_variable': '',
        'judge.dimensions': 'helpfulness',
        'judge.requests_per_minute': 0,
    }


def better(question: str) -> str:
    """The stub's opinion of a question."""
    if 'BIASED' in question:
        return 'A'
    first, second = (
        re.search(rf'<answer {name} \w+>\n(.*?)\n</answer {name} ', question, re.S)
        for name in 'AB'
    )
    assert first is not None and second is not None
    one, other = score(first[1]), score(second[1])
    return 'TIE' if one == other else 'A' if one > other else 'B'


def score(answer: str) -> int:
    """What an answer is worth to the stub."""
    found = re.search(r'score=(\d+)', answer)
    return int(found[1]) if found else len(answer)


@contextlib.contextmanager
def serve(weights: Mapping[str, float] | None = None, seed: int = 0) -> Iterator[Stub]:
    """Runs a stub in threads of this process."""
    stub = Stub(weights or {'good': 1}, seed)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *unused):
            pass

        def do_GET(self):
            self._send(stub.status or 404, {})

        def do_POST(self):
            size = int(self.headers['Content-Length'])
            request = json.loads(self.rfile.read(size))
            done = stub.choose(request)
            try:
                stub.keys.add(self.headers['Authorization'])
                if stub.delay:
                    time.sleep(stub.delay)
                self._answer(done, request)
            except OSError:
                pass  # the client is gone
            finally:
                with stub.lock:
                    stub.flying -= 1

        def _answer(self, done, request):
            assert self.path == '/v1/chat/completions'
            if stub.status:
                # As some servers do, with the key in it.
                told = f'bad key {self.headers["Authorization"]}'
                return self._send(stub.status, {'error': {'message': told}})
            if done == '429':
                return self._send(429, {}, {'Retry-After': '0.02'})
            if done == '500':
                return self._send(500, {'error': {'message': 'overloaded'}})
            if done == 'slow':
                time.sleep(SLOW)
            told = (
                f'They differ.\nVERDICT: {better(request["messages"][-1]["content"])}'
            )
            if done == 'off':
                told += '\nBut who can say?'
            if done == 'cut':
                told = told[:-3]
            finish = 'length' if done == 'cut' else 'stop'
            choice = {'message': {'content': told}, 'finish_reason': finish}
            body = {'choices': [choice], 'usage': {'total_tokens': TOKENS}}
            self._send(200, body, lost=20 if done == 'broken' else 0)

        def _send(self, status, body, headers=None, lost=0):
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) - lost])
            self.close_connection = True

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    stub.url = f'http://127.0.0.1:{server.server_address[1]}/v1'
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def settings(url='http://localhost/v1', **changes):
    """Of a judge that asks the stub, and waits for nothing long."""
    quick = {'timeout': 30.0, 'backoff': 0.001, 'requests_per_minute': 0.0}
    named = {'url': url, 'model': 'stub', 'key_variable': ''}
    return judges.Settings(**(fragments.judge().to_dict() | quick | named | changes))
