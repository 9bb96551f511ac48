"""Rows of CSV: cells, quotes, and lines that are none."""

import csv

import pytest

from beaver_jax.data import files
from beaver_jax.data import rows
from tests.data.files import contents


def test_csv_rows_know_their_lines(write):
    path = write('a.csv', 'a,b\n1,"x\ny, ""z"""\n\n  \nTrue,\n')
    assert list(files.read_rows(path)) == [
        (f'{path}:2', {'a': '1', 'b': 'x\ny, "z"'}),
        (f'{path}:6', {'a': 'True', 'b': ''}),
    ]
    assert {type(cell) for row in contents.read(path) for cell in row.values()} == {
        rows.Cell
    }


@pytest.mark.parametrize(
    ('line', 'reason', 'message'),
    [
        (b'1', 'bad_field', r'there are 1 cells under 2 columns'),
        (b'1,2,3', 'bad_field', r'there are 3 cells under 2 columns'),
        (b'"1"x,2', 'not_csv', r"this is not CSV: ',' expected after '\"'"),
        (b'1,\xff', 'not_utf8', r"the cell under 'b' is not UTF-8"),
        (b'1,\xed\xa0\x80', 'not_utf8', r"the cell under 'b' is not UTF-8"),
    ],
)
def test_a_bad_line_of_csv(write, line, reason, message):
    path = write('a.csv', b'a,b\n1,2\n' + line + b'\n3,4\n')
    with pytest.raises(rows.BadRowError, match=rf'{path}:3: {message}') as info:
        contents.read(path)
    assert info.value.reason == reason
    counts = rows.Counts()
    found = contents.read(path, on_bad_row='drop', counts=counts)
    assert found == [{'a': '1', 'b': '2'}, {'a': '3', 'b': '4'}]
    assert counts == {'read': 3, reason: 1}


def test_nul_bytes_and_huge_cells_are_read(write):
    huge = 'x' * 300_000  # the csv module's own limit is 131,072
    path = write('a.csv', f'a,b\n\x00,{huge}\n')
    assert contents.read(path) == [{'a': '\x00', 'b': huge}]
    assert csv.field_size_limit() >= 300_000


@pytest.mark.parametrize('on_bad_row', ['drop', 'error'])
@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', r':3: a quotation mark opens here and is never'),
        ('a,b,a\n1,2,3\n', r"the first line names 'a' twice"),
    ],
)
def test_csv_that_cannot_be_told_apart(write, text, message, on_bad_row):
    with pytest.raises(rows.DataError, match=message):
        contents.read(write('a.csv', text), on_bad_row=on_bad_row)


@pytest.mark.parametrize('text', ['', '\n\n', 'a,b\n'])
def test_csv_without_rows(write, text):
    assert contents.read(write('a.csv', text)) == []
