"""Readers of every kind of file: the same rows, by line, and never all at once."""

import gzip
import json
import lzma
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from beaver_jax.data import files
from beaver_jax.data import rows
from tests.data.files import contents

GOOD = {
    'a.jsonl': contents.LINES,
    'a.json': json.dumps(contents.ROWS),
    'a.jsonl.gz': gzip.compress(contents.LINES),
    'a.jsonl.xz': lzma.compress(contents.LINES),
    'a.jsonl.zip': contents.zipped('a.jsonl', contents.LINES),
    'a.parquet': contents.parquet(),
    'a.arrow': contents.arrow(),
    'file.arrow': contents.arrow(stream=False),
    'A.JSONL': contents.LINES,
}


@pytest.mark.parametrize('name', GOOD)
def test_every_kind_of_file_has_the_same_rows(write, name):
    path = write(name, GOOD[name])
    found = list(files.read_rows(path))
    assert [row for _, row in found] == contents.ROWS
    by_line = '.jsonl' in name.lower()
    places = [':1', ':2'] if by_line else [', row 0 (from 0)', ', row 1 (from 0)']
    assert [where for where, _ in found] == [f'{path}{place}' for place in places]


def test_rows_know_their_lines(write):
    path = write('a.jsonl', '{"a": 1}\n\n{"a": 2}\r\n   \n{"a": 3}')
    assert list(files.read_rows(path)) == [
        (f'{path}:1', {'a': 1}),
        (f'{path}:3', {'a': 2}),
        (f'{path}:5', {'a': 3}),
    ]


@pytest.mark.parametrize(
    ('name', 'text'),
    [('a.jsonl', '{"a": "é"}'), ('a.json', '[{"a": "é"}]'), ('a.csv', 'a\né\n')],
)
def test_a_byte_order_mark_is_skipped(write, name, text):
    assert contents.read(write(name, text.encode('utf-8-sig'))) == [{'a': 'é'}]


def test_a_unicode_line_separator_does_not_end_a_line(write):
    path = write('a.jsonl', '{"a": "x\u2028y\x85z"}')
    assert contents.read(path) == [{'a': 'x\u2028y\x85z'}]


def test_bad_rows_are_errors_unless_dropped(write):
    path = write('a.jsonl', '3\n{"a": 1}')
    with pytest.raises(rows.BadRowError, match=':1: 3 is not an object') as info:
        contents.read(path)
    assert info.value.reason == 'not_an_object'
    counts = rows.Counts()
    found = list(files.read_rows(path, on_bad_row='drop', counts=counts))
    assert found == [(f'{path}:2', {'a': 1})]
    assert counts == {'read': 2, 'not_an_object': 1}


@pytest.mark.parametrize('pack', [None, gzip.compress, lzma.compress])
def test_a_packed_line_that_is_bad_has_its_number(write, pack):
    suffix = {None: '', gzip.compress: '.gz', lzma.compress: '.xz'}[pack]
    data = b'{"a": 1}\n{"a": "\xff"}\n{"a"'
    path = write(f'a.jsonl{suffix}', pack(data) if pack else data)
    counts = rows.Counts()
    assert contents.read(path, on_bad_row='drop', counts=counts) == [{'a': 1}]
    assert counts == {'read': 3, 'not_utf8': 1, 'not_json': 1}
    with pytest.raises(rows.BadRowError, match=rf'{path}:2: byte 7 of the line is not'):
        contents.read(path)


def test_the_files_of_an_archive(write):
    more = {'b.jsonl': '{"a": 2}', 'readme.txt': 'x', '__MACOSX/._a.jsonl': b'\x00'}
    path = write('a.jsonl.zip', contents.zipped('a.jsonl', '{"a": 1}', **more))
    assert list(files.read_rows(path)) == [
        (f'{path}/a.jsonl:1', {'a': 1}),
        (f'{path}/b.jsonl:1', {'a': 2}),
    ]


def big_csv(path):
    with path.open('w') as file:
        file.write('a\n')
        for i in range(200_000):
            file.write(f'{i:060}\n')


def big_jsonl(path):
    with path.open('w') as file:
        for i in range(200_000):
            file.write(f'{{"a": "{i:060}"}}\n')


def big_parquet(path):
    table = pyarrow.table({'a': [f'{i:060}' for i in range(200_000)]})
    pyarrow.parquet.write_table(table, path, row_group_size=2000)


def big_arrow(path):
    table = pyarrow.table({'a': [f'{i:060}' for i in range(200_000)]})
    with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2000)


@pytest.mark.parametrize(
    ('name', 'make'),
    [
        ('a.csv', big_csv),
        ('a.jsonl', big_jsonl),
        ('a.parquet', big_parquet),
        ('a.arrow', big_arrow),
    ],
)
def test_a_file_is_not_read_into_memory(tmp_path, name, make):
    path = tmp_path / name
    make(path)
    pyarrow_before = pyarrow.total_allocated_bytes()
    found = files.read_rows(path)
    next(found)  # imports what it needs
    tracemalloc.start()
    count, arrow_peak = 1, 0
    for _ in found:
        count += 1
        if count % 1000 == 0:
            held = pyarrow.total_allocated_bytes() - pyarrow_before
            arrow_peak = max(arrow_peak, held)
        if count == 20_000:
            break
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All rows take 12 MB as text alone.
    assert peak < 4e6
    assert arrow_peak < 4e6
