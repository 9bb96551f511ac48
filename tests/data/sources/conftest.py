"""Files of rows, good and bad."""

import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Writes rows (objects, or raw text and bytes) as lines of a file."""

    def write(*lines, name='rows.jsonl'):
        path = tmp_path / name
        with path.open('wb') as file:
            for line in lines:
                if not isinstance(line, str | bytes):
                    line = json.dumps(line)
                file.write(line.encode() if isinstance(line, str) else line)
                file.write(b'\n')
        return path

    return write
