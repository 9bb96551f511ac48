"""A tokenizer of letters, and files of rows to read: to ids, or by their names."""

import json
import re

import pytest
import tokenizers
from tokenizers import models
from tokenizers import pre_tokenizers

from beaver_jax.data import tokenizer as tokenizer_lib

# A token for each piece of the template and for each letter, a = 11 to z = 36.
PIECES = ['<unk>', '<s>', '</s>', '<pad>']
PIECES += ['BEGINNING OF CONVERSATION: ', 'USER: ', ' ASSISTANT:', ' ', '\n', '.', '?']
PIECES += [chr(ord('a') + i) for i in range(26)]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp('letters')
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    built = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    words = '|'.join(map(re.escape, PIECES[4:7]))
    pattern = tokenizers.Regex(rf'{words}|[\s\S]')
    built.pre_tokenizer = pre_tokenizers.Split(pattern, 'isolated')
    built.save(str(directory / 'tokenizer.json'))
    config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        **{
            f'{k}_token': v
            for k, v in zip(('unk', 'bos', 'eos', 'pad'), PIECES, strict=False)
        },
    }
    (directory / 'tokenizer_config.json').write_text(json.dumps(config))
    return tokenizer_lib.load(directory)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*found, name='x.jsonl'):
        (tmp_path / name).write_text(''.join(json.dumps(row) + '\n' for row in found))
        return name

    return write


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to name files in without colons of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ('rows.jsonl', 'odd:name.jsonl', 'odd:0.5', 'alpaca:0.5:x.jsonl'):
        (tmp_path / name).write_text('{"prompt": "a"}\n')
    (tmp_path / 'alpaca' / 'rows').mkdir(parents=True)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'a.jsonl').write_text('{"prompt": "a"}\n')
