"""Conversations in the original's template and in a tokenizer's own."""

import json

import pytest

from beaver_jax.data import batches
from beaver_jax.data import chat_template
from beaver_jax.data import sources
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib
from tests import vocabularies

# As Qwen2 writes them, as LLaMA 2 does, and as Gemma does: an end of turn that the
# tokenizer does not call its EOS.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TURNS = ('Who is there?', 'I cannot say.', 'Why  not?\nAsk!', 'So. é', 'See?')


def messages(turns):
    roles = ('user', 'assistant')
    return [{'role': roles[i % 2], 'content': text} for i, text in enumerate(turns)]


def rendered(tokenizer, turns, **options):
    return tokenizer.apply_chat_template(messages(turns), tokenize=False, **options)


def joined(pieces):
    return [token for piece in pieces for token in piece]


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    def make(kind, chat=None, format='', **settings):
        directory = tmp_path_factory.mktemp(kind)
        vocabularies.byte_level(directory, kind, chat_template=chat, **settings)
        return tokenizer_lib.load(directory, format)

    return make


OWN = [('qwen2', CHATML), ('llama', INST), ('opt', INST)]


# ---- The original's template for others ---------------------------------------------


@pytest.mark.parametrize('kind', ['gpt2', 'qwen2', 'opt', 'llama'])
@pytest.mark.parametrize('count', [1, 3, 5])
def test_others_render_the_originals_template(make, tmp_path, kind, count):
    tokenizer_lib.save(make(kind), tmp_path)
    tokenizer = tokenizer_lib.load(tmp_path)
    expected = template.format_prompt(TURNS[:count], tokenizer.eos_token)
    for generates in (True, False):
        text = rendered(tokenizer, TURNS[:count], add_generation_prompt=generates)
        assert text == (tokenizer.bos_token or '') + expected
    ids = tokenizer.apply_chat_template(
        messages(TURNS[:count]), add_generation_prompt=True, return_dict=False
    )
    assert ids == tokenizer_lib.encode_prompt(tokenizer, TURNS[:count], max_length=200)


def test_an_answer_is_a_part_of_it_too(make):
    tokenizer = make('llama')
    text = rendered(tokenizer, TURNS[:2])
    assert text.endswith('ASSISTANT:I cannot say.</s>')


def test_a_system_message_is_refused(make):
    with pytest.raises(Exception, match='roles go user, assistant'):
        make('llama').apply_chat_template([{'role': 'system', 'content': 'a'}])


# ---- The tokenizer's own ------------------------------------------------------------


@pytest.mark.parametrize('kind, chat', OWN)
@pytest.mark.parametrize('count', [1, 3, 5])
def test_a_prompt_is_what_transformers_makes_of_it(make, kind, chat, count):
    tokenizer = make(kind, chat)
    turns = TURNS[:count]
    ids = tokenizer_lib.encode_prompt(tokenizer, turns, max_length=200)
    assert ids == tokenizer.apply_chat_template(
        messages(turns), add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize('kind, chat', OWN)
def test_an_answer_ends_with_the_templates_eos(make, kind, chat):
    tokenizer = make(kind, chat)
    pieces = tokenizer_lib.encode_turns(tokenizer, TURNS[:4])
    whole = tokenizer.apply_chat_template(messages(TURNS[:4]), return_dict=False)
    assert joined(pieces) == whole[: len(joined(pieces))]
    # All that follows the last EOS is the template's.
    assert whole[len(joined(pieces)) :] in ([], tokenizer('\n')['input_ids'])
    for i in (1, 3):
        assert pieces[i][-1] == tokenizer.eos_token_id
        assert pieces[i].count(tokenizer.eos_token_id) == 1
        assert pieces[i] == tokenizer_lib.encode_response(tokenizer, TURNS[i])
        assert tokenizer_lib.decode(tokenizer, pieces[i]) == TURNS[i]


def test_an_eos_of_the_template_takes_the_place_of_another(make):
    # The vocabulary has <|im_end|>, and its settings call another token the EOS.
    assert make('qwen2', CHATML, eos_token='<|endoftext|>').eos_token == '<|im_end|>'
    plain = make('qwen2', CHATML, 'beaver', eos_token='<|endoftext|>')
    assert plain.eos_token == '<|endoftext|>'


def test_special_tokens_that_a_person_writes_are_plain_text(make):
    tokenizer = make('qwen2', CHATML)
    said = 'a<|im_end|>b'
    ids = tokenizer_lib.encode_prompt(tokenizer, (said,), max_length=200)
    # That of the template alone.
    assert ids.count(tokenizer.eos_token_id) == 1
    assert said in tokenizer.decode(ids)
    answer = tokenizer_lib.encode_response(tokenizer, said)
    assert answer.index(tokenizer.eos_token_id) == len(answer) - 1
    assert tokenizer_lib.decode(tokenizer, answer) == said


@pytest.mark.parametrize('kind, chat', OWN)
def test_a_long_prompt_is_shortened_inside_what_was_said(make, kind, chat):
    tokenizer = make(kind, chat)
    dialogue = ('old ' * 30, 'old answer', 'new')
    kept = tokenizer_lib.encode_prompt(tokenizer, ('new',), max_length=200)
    assert tokenizer_lib.encode_prompt(tokenizer, dialogue, max_length=60) == kept
    ids = tokenizer_lib.encode_prompt(tokenizer, ('book ' * 60,), max_length=60)
    assert 50 <= len(ids) <= 60
    end = rendered(tokenizer, ('x',), add_generation_prompt=True).rpartition('x')[2]
    text = tokenizer.decode(ids)
    assert text.endswith(end)
    assert ('book ' * 60).startswith(text.removesuffix(end).partition('book')[2][1:])
    assert text.count('book') > 10


def test_the_answers_of_a_dialogue_are_learnt(make):
    tokenizer = make('qwen2', CHATML)
    rows = [sources.Demonstration(TURNS[:3], TURNS[3], 'a')]
    batch = batches.sft(rows, tokenizer, max_length=120, batch_size=1, once=True)[0]
    learnt = tokenizer.decode(batch.tokens[0][batch.loss_mask[0]])
    assert learnt == 'I cannot say.<|im_end|>So. é<|im_end|>'


# ---- Which of them ------------------------------------------------------------------


def test_a_directory_tells_its_format(make, tmp_path):
    for name, format in (('own', ''), ('chat', 'chat'), ('original', 'beaver')):
        tokenizer = make('qwen2', CHATML, format)
        tokenizer_lib.save(tokenizer, tmp_path / name)
        again = tokenizer_lib.load(tmp_path / name)
        own = name != 'original'
        assert tokenizer_lib.has_own_template(again) == own
        assert again.chat_template == (CHATML if own else template.JINJA)
        assert tokenizer_lib.encode_turns(again, TURNS) == (
            tokenizer_lib.encode_turns(tokenizer, TURNS)
        )


def test_formats_are_different_ids(make):
    one, other = make('qwen2', CHATML), make('qwen2', CHATML, 'beaver')
    assert not tokenizer_lib.gives_same_ids(one, other)
    assert tokenizer_lib.gives_same_ids(one, make('qwen2', CHATML))


def test_no_chat_template_where_one_is_asked_for(make):
    with pytest.raises(
        ValueError, match=r'no chat template; use config\.data\.template'
    ):
        make('gpt2', None, 'chat')


@pytest.mark.parametrize(
    'chat, problem',
    [
        ("{{ raise_exception('no') }}", 'cannot be rendered'),
        ('{{ messages[0].content }}', 'does not show each turn once'),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", 'does not show'),
    ],
)
def test_a_template_that_cannot_be_used(make, chat, problem):
    with pytest.raises(chat_template.TemplateError, match=problem):
        make('llama', chat)


def test_a_template_that_takes_a_date_tells_the_same_one_every_day(make):
    today = (
        '{% if date_string is not defined %}'
        "{% set date_string = strftime_now('%d %b %Y') %}"
        '{% endif %}{{ date_string }}'
    )
    dated = make('llama', today + INST)
    assert dated.decode(joined(tokenizer_lib.encode_turns(dated, TURNS[:1]))) == (
        '26 Jul 2024<s>[INST] Who is there? [/INST]'
    )


def test_templates_are_saved_as_text(make, tmp_path):
    tokenizer_lib.save(make('llama'), tmp_path)
    stored = tmp_path / 'chat_template.jinja'
    config = json.loads((tmp_path / 'tokenizer_config.json').read_text())
    text = stored.read_text() if stored.is_file() else config['chat_template']
    assert text == template.JINJA
