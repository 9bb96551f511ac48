"""Data sets of the hub, and names that are none."""

import sys
import types

import pytest

from beaver_jax.data import files
from beaver_jax.data import rows
from tests.data.files import contents


@pytest.fixture
def hub(monkeypatch):
    """A module in the place of `datasets`, which answers as it is told."""
    asked = []

    def load_dataset(name, **options):
        asked.append((name, options))
        if name == 'org/missing':
            raise ConnectionError('offline\nand a long story')
        return iter(contents.ROWS)

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, 'datasets', module)
    return asked


def test_a_data_set_of_the_hub(hub):
    assert list(files.read_rows('org/some-set', split='test', folder='part')) == [
        ('org/some-set[test], row 0 (from 0)', contents.ROWS[0]),
        ('org/some-set[test], row 1 (from 0)', contents.ROWS[1]),
    ]
    assert (
        contents.read('org/some-set')
        == contents.read('org/some-set/validation')
        == contents.ROWS
    )
    assert hub == [
        ('org/some-set', {'data_dir': 'part', 'split': 'test'}),
        ('org/some-set', {'data_dir': None, 'split': 'train'}),
        ('org/some-set', {'data_dir': None, 'split': 'validation'}),
    ]


def test_a_data_set_that_cannot_be_loaded(hub):
    with pytest.raises(rows.DataError) as info:
        contents.read('org/missing')
    assert str(info.value) == (
        "No file or directory 'org/missing', and it cannot be loaded from the Hugging "
        "Face hub, split 'train' (ConnectionError: offline). Check the name; without a "
        'network, copy the data set here (hf download --repo-type dataset org/missing) '
        'and name its directory.'
    )


@pytest.mark.parametrize('path', ['no.jsonl', 'data/no.jsonl', '/no/such', './no/such'])
def test_a_missing_file_is_not_looked_for_on_the_hub(hub, path):
    with pytest.raises(rows.DataError, match=f"No file '{path}'; check the path"):
        contents.read(path)
    assert not hub
