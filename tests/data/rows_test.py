"""Where rows come from, and the checks of their fields. More in sources_test.py."""

import pytest

from beaver_jax.data import rows


def _file(tmp_path, name, text, encoding='utf-8'):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_know_their_lines(tmp_path):
    path = _file(tmp_path, 'a.jsonl', '{"a": 1}\n\n{"a": 2}\r\n   \n{"a": 3}')
    assert list(rows.read_rows(path)) == [
        (f'{path}:1', {'a': 1}),
        (f'{path}:3', {'a': 2}),
        (f'{path}:5', {'a': 3}),
    ]


def test_rows_of_a_list_know_their_index(tmp_path):
    path = _file(tmp_path, 'a.json', '[{"a": 1},\n {"a": 2}]')
    assert list(rows.read_rows(path)) == [
        (f'{path}, row 0 (from 0)', {'a': 1}),
        (f'{path}, row 1 (from 0)', {'a': 2}),
    ]


@pytest.mark.parametrize(
    ('name', 'text'), [('a.jsonl', '{"a": "é"}'), ('a.json', '[{"a": "é"}]')]
)
def test_a_byte_order_mark_is_skipped(tmp_path, name, text):
    path = _file(tmp_path, name, text, 'utf-8-sig')
    assert [row for _, row in rows.read_rows(path)] == [{'a': 'é'}]


def test_a_unicode_line_separator_does_not_end_a_line(tmp_path):
    path = _file(tmp_path, 'a.jsonl', '{"a": "x\u2028y\x85z"}')
    assert [row for _, row in rows.read_rows(path)] == [{'a': 'x\u2028y\x85z'}]


def test_bad_rows_are_errors_unless_dropped(tmp_path):
    path = _file(tmp_path, 'a.jsonl', '3\n{"a": 1}')
    with pytest.raises(rows.BadRowError, match=':1: 3 is not an object') as info:
        list(rows.read_rows(path))
    assert info.value.reason == 'not_an_object'
    counts = rows.Counts()
    found = list(rows.read_rows(path, on_bad_row='drop', counts=counts))
    assert found == [(f'{path}:2', {'a': 1})]
    assert counts == {'read': 2, 'not_an_object': 1}


def test_labels_that_are_not_required_may_be_anything():
    assert rows.index_field({'a': 1}, 'x', 'a', required=False) == 1
    assert rows.index_field({'a': 'b'}, 'x', 'a', required=False) is None
    assert rows.flag_field({'a': False}, 'x', 'a', required=False) is False
    assert rows.flag_field({}, 'x', 'a', required=False) is None


def test_values_are_shown_short_and_in_ascii():
    assert rows.show('é\x1b') == r"'\xe9\x1b'"
    shown = rows.show('x' * 100)
    # 60 characters: a quote, 56 letters and the dots.
    assert shown == "'" + 'x' * 56 + '...'
