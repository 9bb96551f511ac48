"""Clocks beside a device, and memory."""

import threading
import time

import jax
import numpy as np

from beaver_jax import machine


class Waits:
    """What is there once an event has come, as far as `jax.block_until_ready` knows."""

    def __init__(self):
        self.there = threading.Event()

    def block_until_ready(self):
        assert self.there.wait(30)
        return self


def test_phases_end_when_what_they_compute_is_there():
    first, last = Waits(), Waits()
    begun = time.perf_counter()
    with machine.Watch() as watch:
        found = watch.step(begun, {'rollout': first}, last)
        assert not found.done()
        first.there.set()
        seen = time.perf_counter()
        time.sleep(0.2)
        slept = time.perf_counter() - seen
        last.there.set()
        seconds = found.result()
        whole = time.perf_counter() - begun
    assert seconds.keys() == {'time/rollout', 'time/step'}
    # The rest of the step is what was slept, or less by as much later as a thread has
    # noticed the phase's end.
    rest = seconds['time/step'] - seconds['time/rollout']
    assert slept / 2 <= rest <= whole
    assert 0 <= seconds['time/rollout'] <= seconds['time/step'] <= whole


def test_a_step_begins_when_the_one_before_has_ended():
    slow, quick = Waits(), Waits()
    begun = time.perf_counter()
    with machine.Watch() as watch:
        one, two = (watch.step(begun, {}, last) for last in (slow, quick))
        quick.there.set()
        time.sleep(0.2)
        slow.there.set()
        # Both were dispatched at once; the second waited, and took no time itself.
        assert one.result()['time/step'] >= 0.2 > two.result()['time/step']


def test_the_peak_counts_what_was_held_before():
    held = np.ones(2**27 // 8)  # 134 MB
    del held
    assert machine.peak_memory()['peak_process_bytes'] > 2**27


def test_devices_that_count_their_bytes_are_asked(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.memory_stats = lambda: {'peak_bytes_in_use': peak}

    monkeypatch.setattr(jax, 'local_devices', lambda: [Device(3), Device(5)])
    assert machine.peak_memory() == {'peak_device_bytes': 5}
