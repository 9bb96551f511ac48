"""SIGTERM, Ctrl-C and intervals."""

import os
import signal
import threading

import pytest

from beaver_jax import interrupts

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def heard():
    """A handler of one's own, and what it heard."""
    found = []

    def handler(number, frame):
        found.append(number)

    before = {number: signal.signal(number, handler) for number in BOTH}
    yield handler, found
    for number, old in before.items():
        signal.signal(number, old)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in BOTH]


@pytest.mark.parametrize('number', BOTH)
def test_the_first_is_noticed_and_the_second_is_as_if_nobody_listened(heard, number):
    handler, found = heard
    with interrupts.Notice() as notice:
        assert not notice.given
        send(number)
        assert (notice.given, found) == (True, [])
        send(number)
        assert found == [number]
    assert handlers() == [handler, handler]


def test_one_of_each_kind_ends_nothing(heard):
    # A terminal interrupts all of its processes, and a launcher ends them as well.
    _, found = heard
    with interrupts.Notice() as notice:
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert (notice.given, found) == (True, [])


@pytest.mark.parametrize('number', BOTH)
def test_afterwards_all_is_as_before(heard, number):
    handler, found = heard
    with interrupts.Notice() as notice:
        assert handler not in handlers()
    assert handlers() == [handler, handler]
    send(number)
    assert (notice.given, found) == (False, [number])


@pytest.mark.parametrize('number', BOTH)
def test_what_was_ignored_stays_so(heard, number):
    signal.signal(number, signal.SIG_IGN)  # as SIGINT is for what a shell's `&` starts
    before = handlers()
    with interrupts.Notice() as notice:
        send(number)
        assert not notice.given
    assert handlers() == before


def test_nobody_has_to_read_what_is_told(heard):
    # Such as a `tee` that ended by the same Ctrl-C.
    kept, (end, pipe) = os.dup(2), os.pipe()
    os.close(end)
    os.dup2(pipe, 2)
    try:
        with interrupts.Notice(tells=True) as notice:
            send(signal.SIGINT)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(pipe)
    assert (notice.given, notice.by_key) == (True, True)


@pytest.mark.parametrize('tells', [True, False])
def test_who_presses_a_key_is_told_what_happens_now(heard, tells, capfd):
    with interrupts.Notice(tells=tells):
        send(signal.SIGTERM)
        assert capfd.readouterr().err == ''
        send(signal.SIGINT)
    said = capfd.readouterr().err
    assert ('Ctrl-C once more' in said) == tells == bool(said)


def test_it_listens_no_more_after_an_error(heard):
    handler, _ = heard
    with pytest.raises(RuntimeError), interrupts.Notice():
        raise RuntimeError
    assert handlers() == [handler, handler]


def test_another_thread_leaves_the_handlers_alone(heard):
    handler, _ = heard
    found = []

    def work():
        with interrupts.Notice() as notice:
            found.append((handlers(), notice.given))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [([handler, handler], False)]
    assert handlers() == [handler, handler]


def test_an_interval_is_due_after_its_minutes_and_begins_anew():
    now = [100.0]
    interval = interrupts.Interval(0.5, clock=lambda: now[0])
    assert not interval.due
    now[0] = 129.9  # of 30 s
    assert not interval.due
    now[0] = 130.0
    assert interval.due
    assert interval.due  # until it is begun anew
    interval.restart()
    assert not interval.due
    now[0] = 160.0
    assert interval.due


def test_zero_minutes_are_never_due():
    now = [0.0]
    interval = interrupts.Interval(0, clock=lambda: now[0])
    now[0] = 1e9
    assert not interval.due
