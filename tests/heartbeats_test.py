"""Signs of life, and what they say is wrong."""

import dataclasses
import json
import logging
import os
import time

import pytest

from beaver_jax import heartbeats

# Since 90 and heard of at 100, every 10 seconds.
BEAT = heartbeats.Beat(
    process=0,
    processes=2,
    host='a',
    step=3,
    steps=9,
    doing=heartbeats.COMPUTING,
    since=90.0,
    time=100.0,
    every=10.0,
)


def beat(**changes) -> heartbeats.Beat:
    return dataclasses.replace(BEAT, **changes)


def heart(directory, *, place=(0, 1), every=60.0):
    return heartbeats.Heart(directory, place=place, step=2, steps=5, every=every)


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_silence_is_three_beats_and_ten_seconds():
    # 100 + 3·10 + 10 = 140.
    assert not beat().silent(140.0)
    assert beat().silent(140.1)


@pytest.mark.parametrize('doing', [heartbeats.ENDED, heartbeats.FAILED])
def test_who_has_ended_is_not_silent(doing):
    assert not beat(doing=doing).silent(1e9)


def test_a_silent_process_is_named_with_what_it_did():
    found = heartbeats.concerns([beat(), beat(process=1, host='b', time=150.0)], 150.0)
    assert found == {
        '0 silent': (
            'process 0 (a) has not been heard of for 50 s (at step 3, computing)'
        )
    }


def test_who_is_waited_for():
    others = [beat(process=1), beat(process=2)]
    reads = beat(doing=heartbeats.READING, since=70.0)
    # At most 30 s, ten steps or three beats of 10 s, whichever is most.
    assert heartbeats.concerns([reads, *others], 100.0) == {}
    found = heartbeats.concerns([reads, *others], 100.5)
    assert found == {
        '0 reading rows': (
            'process 0 (a) has been reading rows for 30 s; the others wait for it'
        )
    }
    slow = dataclasses.replace(reads, pace=4.0)  # ten steps are 40 s
    assert heartbeats.concerns([slow, *others], 109.9) == {}
    assert '0 reading rows' in heartbeats.concerns([slow, *others], 110.5)


@pytest.mark.parametrize(
    ('doing', 'other'),
    [
        (heartbeats.READING, heartbeats.READING),  # all read
        (heartbeats.COMPUTING, heartbeats.COMPUTING),  # all compute together
        (heartbeats.FINISHING, heartbeats.COMPUTING),
    ],
)
def test_nobody_is_waited_for(doing, other):
    beats = [beat(doing=doing, since=0.0), beat(process=1, doing=other)]
    assert heartbeats.concerns(beats, 105.0) == {}


def test_one_process_waits_for_nobody():
    assert heartbeats.concerns([beat(doing=heartbeats.READING, since=0.0)], 105.0) == {}


def test_the_slowest_costs_the_others_time():
    beats = [
        beat(own=0.1, pace=2.0),
        beat(process=1, own=0.2, pace=2.0),
        beat(process=2, host='c', own=0.7, pace=2.0),
    ]
    # The usual is 0.2; 0.7 is more than twice that and more than a tenth of 2 s.
    assert heartbeats.concerns(beats, 100.0) == {
        'slowest': (
            'process 2 (c) is the slowest: of 2.00 s of a step the others wait 0.50 s '
            'for its rows and files'
        )
    }
    beats[2] = dataclasses.replace(beats[2], own=0.4)  # exactly twice
    assert heartbeats.concerns(beats, 100.0) == {}
    # Of a step of 8 s a tenth is 0.8: 0.7 is nothing to speak of.
    beats[2] = dataclasses.replace(beats[2], own=0.7, pace=8.0)
    assert heartbeats.concerns(beats, 100.0) == {}


def test_a_heart_says_where_it_is_and_that_it_has_ended(tmp_path):
    with heart(tmp_path) as living:
        (first,) = heartbeats.read(tmp_path)
        assert (first.process, first.processes) == (0, 1)
        assert (first.step, first.steps) == (2, 5)
        assert (first.doing, first.every) == (heartbeats.READING, 60.0)
        living.done(3)
    (last,) = heartbeats.read(tmp_path)
    assert (last.step, last.doing) == (3, heartbeats.ENDED)
    assert last.time >= first.time


@pytest.mark.parametrize(
    ('error', 'doing', 'told'),
    [
        (SystemExit(143), heartbeats.ENDED, ''),  # SIGTERM, after it was saved
        (ValueError('config.x=1\nis wrong'), heartbeats.FAILED, 'config.x=1'),
        (ValueError('x' * 900), heartbeats.FAILED, 'x' * 500),
        (RuntimeError(), heartbeats.FAILED, 'RuntimeError'),
        (KeyboardInterrupt(), heartbeats.ENDED, ''),  # Ctrl-C
    ],
    ids=repr,
)
def test_what_ends_a_heart(error, doing, told, tmp_path):
    with pytest.raises(type(error)), heart(tmp_path):
        raise error
    (last,) = heartbeats.read(tmp_path)
    assert (last.doing, last.error) == (doing, told)


def test_a_heart_beats_by_itself(tmp_path):
    with heart(tmp_path, every=0.02) as living:
        (first,) = heartbeats.read(tmp_path)
        living.does(heartbeats.SAVING)
        until(lambda: heartbeats.read(tmp_path)[0].doing == heartbeats.SAVING)
        assert heartbeats.read(tmp_path)[0].time > first.time


def test_without_a_beat_nothing_is_written(tmp_path):
    with heart(tmp_path, every=0.0) as living:
        living.done(3)
    assert not list(tmp_path.iterdir())


def test_own_time_is_that_outside_of_the_computation(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(heartbeats.time, 'time', lambda: now[0])
    living = heart(tmp_path)

    def step(number, reads, computes, saves):
        now[0] += reads
        living.does(heartbeats.COMPUTING)
        now[0] += computes
        living.does(heartbeats.SAVING)
        now[0] += saves
        living.done(number)

    step(3, 50, 100, 0)  # compiles, and does not count
    step(4, 1, 4, 0)
    step(5, 2, 6, 1)
    with living:
        pass
    (found,) = heartbeats.read(tmp_path)
    # Own 1 and 3, of steps of 5 and 9: means 2 and 7.
    assert (found.own, found.pace) == (2.0, 7.0)


def test_the_first_process_forgets_those_of_a_larger_run(tmp_path):
    for process in range(3):
        with heart(tmp_path, place=(process, 3)):
            pass
    (tmp_path / heartbeats.DIRECTORY / 'notes.json').write_text('{}')
    with heart(tmp_path, place=(1, 2)):
        assert len(heartbeats.read(tmp_path)) == 3  # the second one forgets nobody
    with heart(tmp_path, place=(0, 2)):
        assert [one.process for one in heartbeats.read(tmp_path)] == [0, 1]
    assert (tmp_path / heartbeats.DIRECTORY / 'notes.json').exists()


def test_what_cannot_be_read_is_left_out_and_what_is_unknown_as_well(tmp_path):
    folder = tmp_path / heartbeats.DIRECTORY
    folder.mkdir()
    values = dataclasses.asdict(BEAT) | {'mood': 'of a later version'}
    (folder / '00000.json').write_text(json.dumps(values))
    (folder / '00001.json').write_text('{"process": 1')
    (folder / '00002.json').write_text('{}')
    assert heartbeats.read(tmp_path) == [BEAT]
    assert heartbeats.read(tmp_path / 'nothing') == []


def test_the_first_process_warns_of_a_silent_one_once(tmp_path, caplog):
    with heart(tmp_path, place=(1, 2)):
        pass
    file = tmp_path / heartbeats.DIRECTORY / '00001.json'
    lost = json.loads(file.read_text()) | {'doing': 'saving', 'time': time.time() - 999}
    file.write_text(json.dumps(lost))
    with (
        caplog.at_level(logging.WARNING, 'beaver_jax'),
        heart(tmp_path, place=(0, 2), every=0.02),
    ):
        until(lambda: 'process 1' in caplog.text)
        beats = os.stat(tmp_path / heartbeats.DIRECTORY / '00000.json').st_mtime_ns
        until(
            lambda: (
                (tmp_path / heartbeats.DIRECTORY / '00000.json').stat().st_mtime_ns
                > beats + 10**8
            )
        )
    assert caplog.text.count('has not been heard of') == 1
    assert f'{tmp_path}: process 1' in caplog.text
