"""Ids of conversations with sentencepiece and byte-level tokenizers."""

import errno
import json
import random
import resource
import shutil

import pytest
import sentencepiece
import tokenizers

from beaver_jax.data import bpe
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib

TEXTS = [
    'BEGINNING OF CONVERSATION: USER: How do I bake bread? ASSISTANT:Mix the flour.',
    'BEGINNING OF CONVERSATION: USER: Who is there? ASSISTANT:I cannot say.\nAsk me.',
    'See the bookkeeper, see the book, knead the dough.',
] * 20


@pytest.fixture(scope='module')
def tiny_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp('tiny')
    bpe.train(TEXTS, directory, vocab_size=120)
    return directory


@pytest.fixture(scope='module')
def tiny(tiny_directory):
    return tokenizer_lib.load(tiny_directory)


def _opt(shared_data, directory):
    source = shared_data / 'tokenizers'
    shutil.copy(source / 'opt_gpt2-vocab.json', directory / 'vocab.json')
    shutil.copy(source / 'opt_gpt2-merges.txt', directory / 'merges.txt')
    config = {'tokenizer_class': 'GPT2Tokenizer', 'bos_token': '</s>'}
    config |= {'eos_token': '</s>', 'unk_token': '</s>'}
    (directory / 'tokenizer_config.json').write_text(json.dumps(config))
    return directory


def _neox(shared_data, directory):
    source = shared_data / 'tokenizers' / 'gpt_neox_20B_tokenizer.json'
    shutil.copy(source, directory / 'tokenizer.json')
    config = {'tokenizer_class': 'GPTNeoXTokenizer', 'eos_token': '<|endoftext|>'}
    (directory / 'tokenizer_config.json').write_text(json.dumps(config))
    return directory


@pytest.fixture(scope='module', params=['llama', 'opt', 'neox'])
def real(request, shared_data, tmp_path_factory):
    """A LLaMA tokenizer with bytes to fall back on, and two byte-level ones."""
    if request.param == 'llama':
        return tokenizer_lib.load(shared_data / 'stories260K' / 'hf')
    make = {'opt': _opt, 'neox': _neox}[request.param]
    return tokenizer_lib.load(make(shared_data, tmp_path_factory.mktemp('real')))


def _plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)['input_ids']


# Loading.


def test_load_names_a_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere.*local'):
        tokenizer_lib.load(tmp_path / 'nowhere')


@pytest.mark.parametrize(
    'files',
    [
        {},
        {'config.json': '{"model_type": "llama"}'},
        {'tokenizer_config.json': '{"tokenizer_class": "LlamaTokenizer"}'},
        {'tokenizer_config.json': '{"tokenizer_class": "GPT2Tokenizer"}'},
        {'tokenizer.json': '{ not json'},
        {'tokenizer.model': 'not a model'},
    ],
)
def test_load_names_a_directory_without_a_tokenizer(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f'{tmp_path}.*tokenizer.json'):
        tokenizer_lib.load(tmp_path)


def test_load_refuses_a_tokenizer_without_eos(tiny_directory, tmp_path):
    shutil.copy(tiny_directory / 'tokenizer.json', tmp_path)
    config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '<s>'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='no EOS token'):
        tokenizer_lib.load(tmp_path)


def test_load_never_runs_code_of_the_directory(tiny_directory, tmp_path):
    shutil.copy(tiny_directory / 'tokenizer.json', tmp_path)
    (tmp_path / 'mine.py').write_text("raise SystemExit('the code ran')")
    config = {'auto_map': {'AutoTokenizer': ['mine.Mine', 'mine.Mine']}}
    config['tokenizer_class'] = 'Mine'
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='holds no tokenizer'):
        tokenizer_lib.load(tmp_path)


def test_missing_padding_becomes_eos_and_adds_no_id(shared_data):
    tokenizer = tokenizer_lib.load(shared_data / 'stories260K' / 'hf')
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    assert len(tokenizer) == 512


def test_a_saved_tokenizer_gives_the_same_ids(tiny, real, tmp_path):
    turns = ('Why  is\n it?', ' So, é.', 'Oh?')
    for i, tokenizer in enumerate((tiny, real)):
        tokenizer_lib.save(tokenizer, tmp_path / str(i))
        again = tokenizer_lib.load(tmp_path / str(i))
        ids = tokenizer_lib.encode_turns(again, turns)
        assert ids == tokenizer_lib.encode_turns(tokenizer, turns)
        texts = [tokenizer_lib.decode(t, ids[1]) for t in (tokenizer, again)]
        assert texts[0] == texts[1] != ''
        assert len(again) == len(tokenizer)


# Prompts.


def test_a_full_disk_is_an_error_of_the_disk(tiny, tmp_path):
    # Enough for the settings; for tokenizer.json the library raises a bare Exception.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match='File too large') as caught:
            tokenizer_lib.save(tiny, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path)


def test_prompt_is_the_joint_encoding_of_the_template(real):
    question = "Why don't cats fly? 12 34 — 日本 é"
    text = template.format_prompt((question,), real.eos_token)
    bos = [real.bos_token_id]
    ids = tokenizer_lib.encode_prompt(real, (question,), max_length=512)
    assert ids == bos + _plain(real, text)


def test_dialogue_is_the_joint_encoding_of_the_template(real):
    turns = ('Hi there', "Hello, 'friend'.", 'Tell me a story')
    text = template.format_prompt(turns, real.eos_token)
    ids = tokenizer_lib.encode_prompt(real, turns, max_length=512)
    assert ids == [real.bos_token_id, *_plain(real, text)]


def test_special_tokens_in_a_question_are_plain_text(real):
    eos = real.eos_token
    ids = tokenizer_lib.encode_prompt(real, (f'a{eos}b',), max_length=512)
    assert ids.count(real.eos_token_id) == (real.bos_token_id == real.eos_token_id)
    assert f'USER: a{eos}b ASSISTANT:' in real.decode(ids)


def test_long_prompt_is_cut_at_the_end_of_the_question(real):
    question = 'one two three four five six seven eight nine ten ' * 40
    full = tokenizer_lib.encode_prompt(real, (question,), max_length=10**6)
    bare = tokenizer_lib.encode_prompt(real, ('',), max_length=512)
    for max_length in (len(bare), len(bare) + 1, len(bare) + 17, len(full) - 1):
        ids = tokenizer_lib.encode_prompt(real, (question,), max_length=max_length)
        # At most one word is lost beyond need: a word has at most 5 tokens here.
        assert max_length - 5 <= len(ids) <= max_length
        text = real.decode(ids, skip_special_tokens=True)
        assert text.startswith('BEGINNING OF CONVERSATION: USER:')
        assert text.endswith(' ASSISTANT:')
        kept = text.removeprefix('BEGINNING OF CONVERSATION: USER: ')
        assert question.startswith(kept.removesuffix(' ASSISTANT:'))


def test_oldest_turns_go_first(real):
    turns = ('old ' * 50, 'old answer', 'middle', 'middle answer', 'new')
    for kept in (turns[2:], turns[4:]):
        target = tokenizer_lib.encode_prompt(real, kept, max_length=512)
        ids = tokenizer_lib.encode_prompt(real, turns, max_length=len(target))
        assert ids == target


def test_too_small_for_the_template_is_an_error(tiny):
    bare = tokenizer_lib.encode_prompt(tiny, ('',), max_length=512)
    with pytest.raises(ValueError, match=f'takes {len(bare)} tokens'):
        tokenizer_lib.encode_prompt(tiny, ('Hi',), max_length=len(bare) - 1)


# Responses.


def test_response_gets_no_space_and_one_eos(shared_data):
    tokenizer = tokenizer_lib.load(shared_data / 'stories260K' / 'hf')
    ids = tokenizer_lib.encode_response(tokenizer, 'Once')
    # Alone, "Once" is one piece with a space in front; after "ASSISTANT:" it has none.
    assert tokenizer.convert_ids_to_tokens(_plain(tokenizer, 'Once'))[0][0] == '▁'
    assert ''.join(tokenizer.convert_ids_to_tokens(ids)) == 'Once</s>'


@pytest.mark.parametrize(
    'response', ['Hello', ' "Quoted" text', '  two spaces', '42', 'Ja, é', '日本', '']
)
def test_response_stands_as_in_the_joint_encoding(real, response):
    prompt = template.format_prompt(("What's up?",), real.eos_token)
    head, joint = _plain(real, prompt), _plain(real, prompt + response)
    assert joint[: len(head)] == head  # holds for these responses
    ids = tokenizer_lib.encode_response(real, response)
    assert ids == [*joint[len(head) :], real.eos_token_id]


def test_response_that_merges_with_the_template_is_encoded_apart(shared_data, tmp_path):
    tokenizer = tokenizer_lib.load(_opt(shared_data, tmp_path))
    # OPT has a token ":(", so the joint encoding has no border there.
    prompt = template.format_prompt(('Hi',), '</s>')
    head, joint = _plain(tokenizer, prompt), _plain(tokenizer, prompt + '(a) b')
    assert joint[: len(head)] != head
    ids = tokenizer_lib.encode_response(tokenizer, '(a) b')
    assert ids == [*_plain(tokenizer, '(a) b'), tokenizer.eos_token_id]


def test_response_that_merges_with_everything_is_encoded_alone(tmp_path):
    symbols = ['</s>', ':', '\n', 'x', *sorted(set(' ASSISTANT')), ':x', '\nx']
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    model = tokenizers.models.BPE(vocab=vocab, merges=[(':', 'x'), ('\n', 'x')])
    tokenizers.Tokenizer(model).save(str(tmp_path / 'tokenizer.json'))
    config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'eos_token': '</s>'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    tokenizer = tokenizer_lib.load(tmp_path)
    assert tokenizer_lib.encode_response(tokenizer, 'xx') == [vocab['x']] * 2 + [0]


def test_special_tokens_in_a_response_are_plain_text(real):
    ids = tokenizer_lib.encode_response(real, f'a{real.eos_token}b')
    assert ids.index(real.eos_token_id) == len(ids) - 1


@pytest.mark.parametrize(
    'response',
    ['Hello', ' space first', '  a  b\n\n c ', '日本 é 🙂', "it 's , a .", ''],
)
def test_decode_undoes_encode(real, response):
    ids = tokenizer_lib.encode_response(real, response)
    assert tokenizer_lib.decode(real, ids) == response


def test_turns_concatenate_to_the_conversation(real):
    turns = ('Hi', 'Hello.', 'Why?', 'So.')
    prompt = tokenizer_lib.encode_prompt(real, turns[:3], max_length=512)
    pieces = tokenizer_lib.encode_turns(real, turns)
    ids = [token for piece in pieces for token in piece]
    assert ids == prompt + tokenizer_lib.encode_response(real, 'So.')


# Training.


def test_trained_ids_are_numbered_like_llama(tiny):
    ids = tiny.unk_token_id, tiny.bos_token_id, tiny.eos_token_id, tiny.pad_token_id
    assert ids == (0, 1, 2, 3)
    assert len(tiny) == 120
    assert tiny('Mix')['input_ids'][0] == 1


def test_trained_tokenizer_agrees_with_sentencepiece(tiny, tiny_directory):
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(tiny_directory / 'tokenizer.model')
    )
    rng = random.Random(0)
    words = ['see', 'the ', ' book', 'keeper', '  ', '\n', 'ee', 'é', 'BEG', 'ASSIST']
    letters = 'abeknorstABES  .?\né日'
    for i in range(1000):
        alphabet = letters if i % 2 else words
        text = ''.join(rng.choices(alphabet, k=rng.randrange(20)))
        assert _plain(tiny, text) == processor.encode(text), repr(text)


def test_trained_tokenizer_keeps_spaces_and_lines(tiny):
    text = '  See  the book\n\nkeeper '
    ids = tokenizer_lib.encode_response(tiny, text)
    assert tokenizer_lib.decode(tiny, ids) == text


def test_training_is_deterministic(tiny_directory, tmp_path):
    bpe.train(iter(TEXTS), tmp_path, vocab_size=120)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['tokenizer.json', 'tokenizer.model', 'tokenizer_config.json']
    for name in names:
        assert (tmp_path / name).read_bytes() == (tiny_directory / name).read_bytes()


def test_long_texts_are_trained_on(tmp_path):
    # 10,000 bytes are more than sentencepiece's own limit of 4,192.
    bpe.train(['ab ' * 3333 + 'z'], tmp_path, vocab_size=9)
    tokenizer = tokenizer_lib.load(tmp_path)
    assert tokenizer.unk_token_id not in _plain(tokenizer, 'z')


def test_no_texts_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'does not suit these 0 texts: \w'):
        bpe.train([], tmp_path / 'new', vocab_size=120)


@pytest.mark.parametrize('vocab_size', [10, 5000])
def test_an_impossible_vocabulary_size_is_an_error(tmp_path, vocab_size):
    with pytest.raises(ValueError, match=f'vocab_size={vocab_size} does not suit'):
        bpe.train(TEXTS, tmp_path / 'new', vocab_size=vocab_size)
    assert not (tmp_path / 'new').exists()
