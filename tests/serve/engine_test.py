import queue
import time
import weakref

import pytest

from beaver_jax.rollout import sampling
from beaver_jax.serve import answers
from beaver_jax.serve import engine as engine_lib

GREEDY = sampling.Sampler(0.0)


class Asked:
    """A job, and what it was told."""

    def __init__(self, model, question='Who is there?', number=3, **changes):
        given = {
            'sampler': sampling.Sampler(),
            'limit': 20,
            'frame': model.chat_frame,
            'stop': (),
            'shows': False,
            'streams': True,
        }
        self._told: queue.Queue[answers.Delta] = queue.Queue()
        self.job = answers.Job(
            tokens=model.encode_chat((question,)),
            number=number,
            deliver=self._told.put,
            **(given | changes),
        )

    def next(self):
        return self._told.get(timeout=60)

    def deltas(self):
        """All of them."""
        found = [self.next()]
        while found[-1].finish is None:
            found.append(self.next())
        assert self._told.empty()
        return found

    def text(self):
        return ''.join(delta.text for delta in self.deltas())


def ask(model, **changes):
    asked = Asked(model, **changes)
    model.engine.submit([asked.job])
    return asked


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer_is_the_same_in_pieces_whole_and_beside_others(model):
    alone = ask(model).deltas()
    assert len(alone) > 3
    assert all(delta.text or delta.finish for delta in alone)
    text = ''.join(delta.text for delta in alone)
    whole = ask(model, streams=False)
    others = [ask(model, number=i, sampler=GREEDY, limit=5 + i) for i in range(6)]
    (delta,) = whole.deltas()
    assert (delta.text, delta.count) == (text, alone[-1].count)
    assert ask(model).text() == text
    assert ask(model, number=4).text() != text
    # All greedy ones are one answer, cut at their limits.
    texts = [other.text() for other in others]
    assert all(texts[-1].startswith(text) for text in texts)


def test_a_limit_ends_an_answer(model):
    last = ask(model, sampler=GREEDY, limit=7).deltas()[-1]
    assert (last.finish, last.count) == ('length', 7)


def test_a_stop_string_ends_it_and_frees_its_slot(model):
    text = ask(model, limit=40).text()
    stop = text[10:13]
    before = text.index(stop)
    asked = [ask(model, limit=40, stop=(stop,), streams=s) for s in (True, False)]
    for one in asked:
        deltas = one.deltas()
        assert ''.join(delta.text for delta in deltas) == text[:before]
        assert deltas[-1].finish == 'stop'
        assert deltas[-1].count < 40
    until(lambda: model.engine.open == 0)


def test_tokens_are_those_of_the_text_and_none_of_the_stop_string(model):
    tokens = [
        token
        for delta in ask(model, shows=True, limit=30).deltas()
        for token in delta.tokens
    ]
    text = ask(model, limit=30).text()
    assert [token.start for token in tokens] == [
        sum(len(model.token(one.id)[0]) for one in tokens[:i])
        for i in range(len(tokens))
    ]
    assert ''.join(model.token(token.id)[0] for token in tokens) == text
    assert all(len(token.top) == 2 for token in tokens)
    assert all(token.logp <= token.top[0][1] + 1e-6 for token in tokens)
    # The stop string begins with the eighth token.
    stop = text[tokens[7].start : tokens[7].start + 5]
    cut = ask(model, shows=True, limit=30, stop=(stop,)).deltas()
    shown = [token for delta in cut for token in delta.tokens]
    # Other neighbours: log-probabilities are sums in another order, and ten units in
    # the last place of a float32 between 4 and 8 are 5e-6.
    for one, other in zip(shown, tokens[: len(shown)], strict=True):
        assert (one.id, one.start) == (other.id, other.start)
        assert one.logp == pytest.approx(other.logp, abs=5e-6)
        for (token, logp), (same, value) in zip(one.top, other.top, strict=True):
            assert token == same
            assert logp == pytest.approx(value, abs=5e-6)
    length = sum(len(delta.text) for delta in cut)
    assert len(shown) == sum(token.start < length for token in tokens)


def test_who_leaves_frees_a_slot_for_who_waits(model):
    # Three slots for four answers.
    running = [ask(model, sampler=GREEDY, limit=40, number=i) for i in range(3)]
    for one in running:
        one.next()
    waiting = ask(model, limit=1)
    model.engine.cancel([one.job for one in running])
    assert waiting.deltas()[-1].count == 1
    until(lambda: model.engine.open == 0)


def test_only_so_many_may_wait(model):
    # Three slots and a queue of five.
    asked = [Asked(model, sampler=GREEDY, limit=40) for _ in range(9)]
    with pytest.raises(engine_lib.BusyError):
        model.engine.submit([one.job for one in asked])
    assert model.engine.open == 0  # all or none
    model.engine.submit([one.job for one in asked[:8]])
    with pytest.raises(engine_lib.BusyError):
        model.engine.submit([asked[8].job])
    assert len({one.text() for one in asked[:8]}) == 1


class Broken:
    """A streamer that fails."""

    def warm_up(self):
        pass

    def submit(self, requests):
        pass

    def cancel(self, requests):
        pass

    def stream(self):
        raise RuntimeError('out of memory')


def test_a_failure_is_told_and_what_comes_next_is_answered(model, caplog):
    made = iter([Broken(), model.engine._make()])
    engine = engine_lib.Engine(lambda: next(made), model._reader, 4)
    asked = [Asked(model, sampler=GREEDY, limit=3) for _ in range(3)]
    engine.submit([one.job for one in asked[:2]])
    assert [one.next().finish for one in asked[:2]] == ['error', 'error']
    engine.submit([asked[2].job])
    assert asked[2].deltas()[-1].count == 3
    assert 'out of memory' in caplog.text
    engine.close()


def test_the_state_that_failed_is_gone_before_the_next_is_made(model, monkeypatch):
    # Pytest keeps the tracebacks that are logged, and they the state.
    monkeypatch.setattr(engine_lib.log, 'disabled', True)
    made: list[weakref.ref] = []

    def make():
        assert not any(old() for old in made)  # as if there were room for only one
        made.append(weakref.ref(streamer := Broken()))
        return streamer

    engine = engine_lib.Engine(make, model._reader, 4)
    for _ in range(2):
        asked = Asked(model)
        engine.submit([asked.job])
        assert asked.next().finish == 'error'
    engine.close()
    assert not engine.broken and len(made) == 3


@pytest.mark.parametrize('step', ['submit', 'cancel'])
def test_a_failure_before_decoding_is_told_too(model, monkeypatch, step):
    def fail(self, requests):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(Broken, step, fail)
    made = iter([Broken(), model.engine._make()])
    engine = engine_lib.Engine(lambda: next(made), model._reader, 4)
    asked = [Asked(model, sampler=GREEDY, limit=3) for _ in range(3)]
    engine.submit([one.job for one in asked[:2]])
    assert [one.next().finish for one in asked[:2]] == ['error', 'error']
    engine.submit([asked[2].job])
    assert asked[2].deltas()[-1].count == 3
    engine.close()


def test_an_engine_that_cannot_begin_anew_is_closed(model, caplog):
    made = iter([Broken()])
    engine = engine_lib.Engine(lambda: next(made), model._reader, 4)
    asked = [Asked(model) for _ in range(2)]
    engine.submit([one.job for one in asked])
    assert [one.next().finish for one in asked] == ['error', 'error']
    until(lambda: engine.broken)
    with pytest.raises(engine_lib.ClosedError):
        engine.submit([Asked(model).job])
    assert engine.open == 0
    assert 'cannot begin anew' in caplog.text
    engine.close()


def test_a_closed_engine_finishes_what_it_has_and_takes_nothing(model):
    engine = engine_lib.Engine(model.engine._make, model._reader, 9)
    asked = [Asked(model, sampler=GREEDY, limit=30) for _ in range(5)]
    engine.submit([one.job for one in asked])
    engine.close()
    assert [one.deltas()[-1].count for one in asked] == [30] * 5
    with pytest.raises(engine_lib.ClosedError):
        engine.submit([Asked(model).job])
