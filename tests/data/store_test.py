"""Sequences in a temporary file."""

import concurrent.futures
import errno
import functools
import gc
import tempfile

import numpy as np
import pytest

from beaver_jax.data import store

ITEMS = [('é' * size, np.arange(size)) for size in (0, 1, 700, 3)]


def plain(items):
    return [(text, list(numbers)) for text, numbers in items]


def test_items_come_back_by_index_by_slice_and_in_order():
    stored = store.collect(iter(ITEMS))
    assert len(stored) == 4
    assert plain(stored) == plain(ITEMS)
    assert plain([stored[2], stored[-1]]) == plain([ITEMS[2], ITEMS[3]])
    assert plain(stored[1:3]) == plain(ITEMS[1:3])
    with pytest.raises(IndexError):
        stored[4]


def test_a_part_in_another_order_with_repeats():
    stored = store.collect(range(10)).take(np.array([7, 1, 1, 3]))
    assert list(stored) == [7, 1, 1, 3]
    assert list(stored.take(np.array([3, 0]))) == [3, 7]
    assert list(store.collect([])) == []


def test_items_in_bytes_of_their_own():
    stored = store.collect(['né', '', 'b'], dumps=str.encode, loads=bytes.decode)
    assert list(stored) == ['né', '', 'b']
    assert list(stored.take([2, 0])) == ['b', 'né']
    assert stored[-1:] == ['b']


def test_sizes_are_known_without_reading():
    stored = store.collect(['a', 'bcd', 'ef'], lambda text: (len(text), ord(text[0])))
    np.testing.assert_array_equal(stored.sizes, [[1, 97], [3, 98], [2, 101]])
    taken = stored.take([2, 0, 2])
    np.testing.assert_array_equal(taken.sizes, [[2, 101], [1, 97], [2, 101]])
    assert store.collect(['a']).sizes.shape == (1, 0)
    assert store.collect([], len).sizes.shape == (0, 0)


def test_threads_may_read_it_at_once():
    stored = store.collect(range(2000))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(stored.__getitem__, range(2000))) == list(range(2000))


def test_many_items_with_their_sizes():
    stored = store.collect(range(100), lambda item: (item, -item))
    np.testing.assert_array_equal(stored.sizes[:, 0], range(100))
    np.testing.assert_array_equal(stored.sizes[:, 1], -stored.sizes[:, 0])
    assert list(stored) == [*range(100)]


@pytest.mark.parametrize(('wanted', 'found'), [(700, 10_000), (0, 0), (20_000, 20_000)])
def test_garbage_in_cycles_is_looked_for_less_often(wanted, found):
    before = gc.get_threshold()
    inside = []

    def broken():
        inside.append(gc.get_threshold())
        yield 1
        raise ZeroDivisionError

    gc.set_threshold(wanted, 11, 12)
    try:
        with pytest.raises(ZeroDivisionError):
            store.collect(broken())
        assert inside == [(found, 11, 12)]
        assert gc.get_threshold() == (wanted, 11, 12)
    finally:
        gc.set_threshold(*before)


def test_nothing_is_left_in_the_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    stored = store.collect(range(5))
    assert list(tmp_path.iterdir()) == []
    assert list(stored) == list(range(5))


def test_an_error_of_what_is_collected_stays_what_it_is():
    def broken():
        yield 1
        raise PermissionError(errno.EACCES, 'Permission denied', 'rows.jsonl')

    with pytest.raises(PermissionError, match='Permission denied'):
        store.collect(broken())


def test_a_full_disk_says_what_to_do(monkeypatch):
    monkeypatch.setattr(
        tempfile, 'TemporaryFile', functools.partial(open, '/dev/full', 'wb')
    )
    with pytest.raises(OSError, match='set TMPDIR to a directory') as caught:
        store.collect(range(5))
    assert caught.value.errno == errno.ENOSPC
