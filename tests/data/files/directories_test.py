"""Directories of files: which are read, in which order, and their splits."""

import gzip
import json

import datasets
import pytest

from beaver_jax.data import files
from beaver_jax.data import rows
from tests.data.files import contents


def test_the_files_of_a_directory_in_order(write, tmp_path):
    write('d/b.jsonl', '{"a": 2}')
    write('d/a.json', '[{"a": 1}]')
    write('d/c.csv', 'a\n3\n')
    write('d/notes.txt', 'x')
    write('d/.hidden.jsonl', 'x')
    write('d/dataset_info.json', '{}')
    assert contents.read(tmp_path / 'd') == [{'a': 1}, {'a': 2}, {'a': '3'}]


@pytest.mark.parametrize('folder', ['d', 'd/data'])
def test_a_split_of_a_directory(write, tmp_path, folder):
    for i in (1, 0):
        name = f'{folder}/train-0000{i}-of-00002.parquet'
        write(name, contents.parquet([{'a': f'train {i}'}]))
    write(f'{folder}/test-00000-of-00001.parquet', contents.parquet([{'a': 'test'}]))
    train = [{'a': 'train 0'}, {'a': 'train 1'}]
    assert contents.read(tmp_path / 'd', split='train') == train
    assert contents.read(tmp_path / 'd', split='test') == [{'a': 'test'}]
    assert contents.read(tmp_path / 'd') == [{'a': 'test'}, *train]
    message = "has no file of the split 'validation', but .*test-00000-of-00001.parquet"
    with pytest.raises(rows.DataError, match=message):
        contents.read(tmp_path / 'd', split='validation')


def test_a_split_of_files_without_splits_is_all_of_them(write, tmp_path):
    write('d/mine.jsonl', '{"a": 1}')
    assert contents.read(tmp_path / 'd', split='train') == [{'a': 1}]


def test_splits_below_a_directory(write, tmp_path):
    # As in clones of PKU-SafeRLHF, of BeaverTails and of HelpSteer2.
    for name in ('x/data/one/train', 'x/data/two/train', 'x/data/one/test'):
        write(f'{name}.jsonl', json.dumps({'a': name}))
    write('x/dataset_infos.json', '{}')
    trains = [{'a': 'x/data/one/train'}, {'a': 'x/data/two/train'}]
    assert contents.read(tmp_path / 'x', split='train') == trains
    for size in ('30k', '330k'):
        for side in ('train', 'test'):
            write(f'y/round0/{size}/{side}.jsonl', json.dumps({'a': size + side}))
    assert contents.read(tmp_path / 'y', split='330k_test') == [{'a': '330ktest'}]
    assert contents.read(tmp_path / 'y' / 'round0' / '30k', split='30k_train') == [
        {'a': '30ktrain'}
    ]
    with pytest.raises(rows.DataError, match="no file of the split '330k_train'"):
        contents.read(tmp_path / 'y' / 'round0' / '30k', split='330k_train')
    write('z/train.jsonl', '{"a": "ratings"}')
    write('z/pairs/pairs.jsonl', '{"a": "pairs"}')
    found = list(files.read_rows(tmp_path / 'z', split='train', folder='pairs'))
    assert [row for _, row in found] == [{'a': 'pairs'}]


def test_what_is_unpacked_beside_its_archive_is_read_once(write, tmp_path):
    write('d/a.jsonl', '{"a": 1}')
    write('d/a.jsonl.zip', contents.zipped('a.jsonl', '{"a": 1}'))
    write('d/b.jsonl.gz', gzip.compress(b'{"a": 2}'))
    assert contents.read(tmp_path / 'd') == [{'a': 1}, {'a': 2}]


def test_directories_that_datasets_has_saved(tmp_path):
    train = datasets.Dataset.from_list([{'a': i, 'b': ['x']} for i in range(5)])
    test = datasets.Dataset.from_list([{'a': 9, 'b': []}])
    both = datasets.DatasetDict({'train': train, 'test': test})
    both.save_to_disk(tmp_path / 'both', num_shards={'train': 2, 'test': 1})
    test.save_to_disk(tmp_path / 'test')
    expected = [{'a': i, 'b': ['x']} for i in range(5)]
    assert (
        contents.read(tmp_path / 'both', split='train')
        == contents.read(tmp_path / 'both')
        == expected
    )
    assert contents.read(tmp_path / 'both', split='test') == [{'a': 9, 'b': []}]
    assert contents.read(tmp_path / 'test') == [{'a': 9, 'b': []}]
    with pytest.raises(rows.DataError, match="no split 'dev', but test, train"):
        contents.read(tmp_path / 'both', split='dev')
    # What is computed from it is kept beside its files.
    loaded = datasets.load_from_disk(tmp_path / 'test')
    loaded.map(lambda row: {'a': row['a'] + 1}, load_from_cache_file=False)
    assert list((tmp_path / 'test').glob('cache-*.arrow'))
    assert contents.read(tmp_path / 'test') == [{'a': 9, 'b': []}]


def test_a_directory_without_data(tmp_path):
    with pytest.raises(rows.DataError, match=r'is a directory; name the directory tha'):
        contents.read(tmp_path)
