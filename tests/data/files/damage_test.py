"""Every kind of damage to a file."""

import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from beaver_jax.data import files
from beaver_jax.data import rows
from tests.data.files import contents


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


LONG = [{'a': f'{i * 7919}', 'b': [str(i)]} for i in range(3000)]
LONG_LINES = ''.join(json.dumps(row) + '\n' for row in LONG).encode()
PACKED = {
    'a.jsonl.gz': gzip.compress(LONG_LINES),
    'a.jsonl.xz': lzma.compress(LONG_LINES),
    'a.jsonl.zip': contents.zipped('a.jsonl', LONG_LINES),
    'a.parquet': contents.parquet(LONG),
    'a.arrow': contents.arrow(LONG),
    'file.arrow': contents.arrow(LONG, stream=False),
}
DAMAGE = [
    (name, damage)
    for name in PACKED
    for damage in ('cut', 'other', 'text', 'empty')
    if (name, damage) != ('a.jsonl.gz', 'empty')  # an empty file is an empty gzip file
]


@pytest.mark.parametrize('on_bad_row', ['drop', 'error'])
@pytest.mark.parametrize(('name', 'damage'), DAMAGE)
def test_a_broken_file_is_named(write, name, damage, on_bad_row):
    whole = PACKED[name]
    data = {
        'cut': whole[: len(whole) * 2 // 3],
        'other': bytes(range(256)) * 8,
        'text': contents.LINES,
        'empty': b'',
    }[damage]
    path = write(name, data)
    with pytest.raises(rows.DataError, match=rf'{path} is broken, or no \.\w+ file \('):
        contents.read(path, on_bad_row=on_bad_row)


@pytest.mark.parametrize('name', PACKED)
def test_flipped_bytes_never_crash(write, name):
    whole = PACKED[name]
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        path = write(name, flipped(whole, at))
        try:
            contents.read(path, on_bad_row='drop')
        except rows.DataError as error:
            assert str(path) in str(error)


def test_an_archive_without_rows_or_with_a_password(write):
    path = write('a.jsonl.zip', contents.zipped('a.txt', 'x'))
    with pytest.raises(rows.DataError, match=rf'{path} has no \.jsonl file in it'):
        contents.read(path)
    data = bytearray(contents.zipped('a.jsonl', contents.LINES))
    data[6] |= 1  # the flag of encryption, here and in the directory at the end
    data[data.index(b'PK\x01\x02') + 8] |= 1
    path = write('a.jsonl.zip', bytes(data))
    with pytest.raises(rows.DataError, match=r'is broken, .*encrypted'):
        contents.read(path)


@pytest.mark.parametrize('stream', [True, False])
def test_a_row_of_a_table_that_is_not_utf8(write, stream):
    binary = pyarrow.array([b'x', b'\xff', b'z'])
    table = pyarrow.table({'a': binary.cast(pyarrow.binary()).view(pyarrow.string())})
    path = write('a.arrow', contents.arrow(table=table, stream=stream))
    counts = rows.Counts()
    found = list(files.read_rows(path, on_bad_row='drop', counts=counts))
    assert found == [
        (f'{path}, row 0 (from 0)', {'a': 'x'}),
        (f'{path}, row 2 (from 0)', {'a': 'z'}),
    ]
    assert counts == {'read': 3, 'not_utf8': 1}
    with pytest.raises(rows.BadRowError, match=r'row 1 \(from 0\): the row cannot be'):
        contents.read(path)
