"""Families that lack special tokens, or have one token for several purposes."""

import json
import logging

import jax
import numpy as np
import pytest
import tokenizers

from beaver_jax.data import batches
from beaver_jax.data import bpe
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.steps import sft
from tests import tiny
from tests import vocabularies

KINDS = ('gpt2', 'qwen2', 'opt', 'llama')


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    root = tmp_path_factory.mktemp('kinds')
    return {
        kind: tokenizer_lib.load(vocabularies.byte_level(root / kind, kind))
        for kind in KINDS
    }


def special(tokenizer):
    return tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token


def test_special_tokens_by_rule(loaded):
    end = '<|endoftext|>'
    assert special(loaded['gpt2']) == (end, end, end)
    assert special(loaded['qwen2']) == (None, '<|im_end|>', end)
    assert special(loaded['opt']) == ('</s>', '</s>', '<pad>')
    assert special(loaded['llama']) == ('<s>', '</s>', '</s>')


@pytest.mark.parametrize('kind', KINDS)
def test_a_conversation_begins_with_bos_and_ends_with_one_eos(loaded, kind):
    tokenizer = loaded[kind]
    turns = ('Who is there?', ' I <s> cannot</s> say. é')
    user, answer = tokenizer_lib.encode_turns(tokenizer, turns)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    begin = tokenizer('BEGINNING', add_special_tokens=False)['input_ids']
    assert user[: len(first) + len(begin)] == [*first, *begin]
    assert answer.count(tokenizer.eos_token_id) == 1
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer_lib.decode(tokenizer, answer) == turns[1]


@pytest.mark.parametrize('kind', KINDS)
def test_rules_add_no_token(tmp_path, loaded, kind):
    tokenizer_lib.save(loaded[kind], tmp_path)
    again = tokenizer_lib.load(tmp_path)
    assert len(again) == len(loaded[kind]) == 330 + (kind == 'opt')
    assert special(again) == special(loaded[kind])


def test_a_rule_is_logged_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    directory = vocabularies.byte_level(tmp_path / 'new', 'gpt2', bos_token=None)
    for _ in range(2):
        tokenizer_lib.load(directory)
    said = [r.getMessage() for r in caplog.records if str(directory) in r.getMessage()]
    assert len([text for text in said if 'no padding token' in text]) == 1


@pytest.mark.parametrize('kind', ['gpt2', 'qwen2'])
def test_vocabulary_and_merges_will_do(tmp_path, loaded, kind):
    directory = vocabularies.byte_level(tmp_path, kind)
    held = tokenizers.Tokenizer.from_file(str(directory / 'tokenizer.json'))
    held.model.save(str(directory))  # vocab.json and merges.txt
    (directory / 'tokenizer.json').unlink()
    tokenizer = tokenizer_lib.load(directory)
    turns = ('How do I bake?', 'So. 日')
    found = tokenizer_lib.encode_turns(tokenizer, turns)
    assert found == tokenizer_lib.encode_turns(loaded[kind], turns)


def test_a_sentencepiece_model_alone_will_do(tmp_path):
    bpe.train(vocabularies.TEXTS, tmp_path, vocab_size=120)
    whole = tokenizer_lib.load(tmp_path)
    (tmp_path / 'tokenizer.json').unlink()
    config = {'tokenizer_class': 'LlamaTokenizer', 'legacy': False}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    alone = tokenizer_lib.load(tmp_path)
    assert alone.pad_token == alone.eos_token == '</s>'
    assert (alone.bos_token_id, alone.eos_token_id) == (1, 2)
    answer = tokenizer_lib.encode_response(alone, 'Mix the flour.')
    assert answer == tokenizer_lib.encode_response(whole, 'Mix the flour.')


# ---- Padding that is the EOS --------------------------------------------------------


def test_padding_that_is_the_eos_changes_no_loss(loaded):
    tokenizer = loaded['gpt2']
    eos = tokenizer.eos_token_id
    rows = [
        sources.Demonstration(('See the book?',), 'Ask me.', 'a'),
        sources.Demonstration(('Who?',), 'I cannot say. Mix the flour.', 'b'),
    ]
    batch = batches.sft(rows, tokenizer, max_length=48, batch_size=2, once=True)[0]
    tokens, mask, loss_mask = map(
        np.asarray, (batch.tokens, batch.mask, batch.loss_mask)
    )
    for row in range(2):
        ends = np.flatnonzero(loss_mask[row])
        # The answer's own EOS is learnt, and none of those behind it.
        assert tokens[row, ends[-1]] == eos
        assert mask[row, ends[-1]] and not mask[row, ends[-1] + 1 :].any()
        assert (tokens[row, ends[-1] + 1 :] == eos).all()
    model, params = tiny.causal_lm(vocab_size=330, num_layers=1)
    evaluate = jax.jit(lambda params, batch: sft.sft_eval(params, batch, model=model))
    found = evaluate(params, batch)
    for pad in (7, 329):
        other = batch.replace(tokens=np.where(mask, tokens, pad))
        jax.tree.map(np.testing.assert_array_equal, found, evaluate(params, other))


def test_padding_that_is_the_eos_hides_no_end_of_a_pair(loaded):
    tokenizer = loaded['llama']
    responses = ('So.', 'See the bookkeeper.')
    row = sources.Comparison(('Why?',), responses, 0, None, (None, None), 'a')
    batch = batches.pairs(
        [row], tokenizer, preferred='better', max_length=64, batch_size=1, once=True
    )[0]
    for tokens, mask in zip(batch.tokens[0], batch.mask[0], strict=True):
        last = np.flatnonzero(mask)[-1]
        assert tokens[last] == tokenizer.eos_token_id
        assert tokens[last - 1] != tokenizer.eos_token_id
