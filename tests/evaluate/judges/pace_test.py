"""Calls by the minute."""

from beaver_jax.evaluate.judges import pace as pace_lib


def test_the_pace_spreads_calls_and_can_be_held():
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    pace = pace_lib.Pace(30, sleep, lambda: now[0])
    for _ in range(3):  # one every 2 s, the first at once
        pace.wait()
    assert slept == [2, 2]
    pace.hold(10)  # longer than the 2 s that are due
    pace.wait()
    assert slept == [2, 2, 10]
    now[0] += 60  # what was not used is not saved up
    pace.wait()
    pace.wait()
    assert slept == [2, 2, 10, 2]
