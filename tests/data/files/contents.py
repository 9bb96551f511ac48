"""What stands in files of every kind, and the rows that are read from them."""

import io
import json
import zipfile

import pyarrow
import pyarrow.parquet

from beaver_jax.data import files

ROWS = [{'a': 'x', 'b': ['y', 'é'], 'c': {'d': True}}, {'a': 'z', 'b': [], 'c': None}]
LINES = ''.join(json.dumps(row) + '\n' for row in ROWS).encode()


def zipped(name, data, **more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for member, content in {name: data, **more}.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def parquet(found=ROWS):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), buffer)
    return buffer.getvalue()


def arrow(found=ROWS, *, stream=True, table=None):
    buffer = io.BytesIO()
    table = table or pyarrow.Table.from_pylist(found)
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table) // 30))
    return buffer.getvalue()


def read(path, **options):
    return [row for _, row in files.read_rows(path, **options)]
