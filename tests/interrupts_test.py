"""SIGTERM and intervals."""

import os
import signal
import threading

import pytest

from beaver_jax import interrupts


@pytest.fixture
def heard():
    """A handler of one's own, and what it heard."""
    found = []

    def handler(number, frame):
        found.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    yield handler, found
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_is_noticed_and_the_second_is_as_if_nobody_listened(heard):
    handler, found = heard
    with interrupts.Notice() as notice:
        assert not notice.given
        terminate()
        assert (notice.given, found) == (True, [])
        terminate()
        assert found == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_afterwards_all_is_as_before(heard):
    handler, found = heard
    with interrupts.Notice() as notice:
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    terminate()
    assert (notice.given, found) == (False, [signal.SIGTERM])


def test_it_listens_no_more_after_an_error(heard):
    handler, _ = heard
    with pytest.raises(RuntimeError), interrupts.Notice():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is handler


def test_another_thread_leaves_the_handler_alone(heard):
    handler, _ = heard
    found = []

    def work():
        with interrupts.Notice() as notice:
            found.append((signal.getsignal(signal.SIGTERM), notice.given))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(handler, False)]
    assert signal.getsignal(signal.SIGTERM) is handler


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
