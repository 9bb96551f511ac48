"""Talking with a model in the terminal."""

import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from beaver_jax import chat
from beaver_jax import types
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from tests import micro

QUESTION = 'Sir, how do I make tea?'
GREEDY = sampling.Sampler(temperature=0)


@pytest.fixture(scope='module')
def model(chain, tmp_path_factory):
    """The chain's policy, to which the EOS is as likely as the unknown token.

    Of two, greedy decoding takes the first: no answer ends early.
    """
    directory = tmp_path_factory.mktemp('chat') / 'model'
    shutil.copytree(chain / 'ppo_lag' / 'model', directory)
    lm, params = hf.load_causal_lm(directory)
    kernel = params['lm_head']['kernel']
    unk, eos = 0, 2
    params['lm_head']['kernel'] = kernel.at[:, eos].set(kernel[:, unk])
    hf.save_causal_lm(directory, lm.config, params)
    return str(directory)


@pytest.fixture(scope='module')
def talker(model):
    return chat.Talker(model, GREEDY, max_new_tokens=12, seed=0)


def greedy(directory, ids, count, dtype='float32'):
    """The answer of one compiled generation, without the EOS."""
    tokenizer = tokenizer_lib.load(directory)
    lm, params = hf.load_causal_lm(directory, param_dtype=dtype, dtype=dtype)
    samples = generate.generate(
        params,
        types.PromptBatch(
            tokens=jnp.array([ids], jnp.int32),
            mask=jnp.ones((1, len(ids)), bool),
            row=jnp.zeros(1, jnp.int32),
        ),
        jax.random.key(0),
        model=lm,
        response_length=count,
        sampler=GREEDY,
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
    )
    tokens = samples.tokens[0, len(ids) :][samples.response_mask[0]].tolist()
    return [token for token in tokens if token != tokenizer.eos_token_id]


def test_streaming_gives_what_generation_gives(model, talker):
    ids = tokenizer_lib.encode_prompt(talker.tokenizer, (QUESTION,), max_length=99)
    parts = list(talker.stream(ids))
    assert parts[-1] == greedy(model, ids, 12)
    # One token more each time.
    assert parts == [parts[-1][: len(part)] for part in parts]
    assert [len(part) for part in parts][:3] == [1, 2, 3]


def test_it_talks_in_bfloat16(model, talker):
    ids = tokenizer_lib.encode_prompt(talker.tokenizer, (QUESTION,), max_length=99)
    narrow = chat.Talker(model, GREEDY, max_new_tokens=4, dtype='bfloat16')
    assert {str(x.dtype) for x in jax.tree.leaves(narrow._params)} == {'bfloat16'}
    *_, answer = narrow.stream(ids)
    assert answer == greedy(model, ids, 4, 'bfloat16')


def test_one_answer(model, talker, capsys):
    argv = [model, '--temperature', '0', '--max_new_tokens', '12']
    chat.main([*argv, '--prompt', QUESTION])
    ids = tokenizer_lib.encode_prompt(talker.tokenizer, (QUESTION,), max_length=99)
    expected = tokenizer_lib.decode(talker.tokenizer, greedy(model, ids, 12))
    assert capsys.readouterr().out == expected + '\n'


def test_raw_text_is_continued_as_it_stands(model, talker, capsys):
    argv = [model, '--temperature', '0', '--max_new_tokens', '12', '--raw']
    chat.main([*argv, '--prompt', 'Boil the'])
    ids = talker.tokenizer('Boil the')['input_ids']
    assert ids[0] == talker.tokenizer.bos_token_id
    both = talker.tokenizer.decode(
        ids + greedy(model, ids, 12), skip_special_tokens=True
    )
    assert capsys.readouterr().out == both + '\n'


def test_a_vocabulary_that_the_devices_do_not_divide(model, tmp_path, capsys):
    # Of eight devices, each would hold 385/8 rows of the embedding.
    lm, params = hf.load_causal_lm(model)
    embedding, kernel = params['embed']['embedding'], params['lm_head']['kernel']
    wider = {
        'embed': {'embedding': jnp.pad(embedding, ((0, 1), (0, 0)))},
        'lm_head': {'kernel': jnp.pad(kernel, ((0, 0), (0, 1)))},
    }
    config = dataclasses.replace(lm.config, vocab_size=385)
    shutil.copytree(model, tmp_path / 'model')
    hf.save_causal_lm(tmp_path / 'model', config, params | wider)
    argv = ['--max_new_tokens', '2', '--temperature', '0', '--prompt', 'Hello']
    chat.main([model, *argv])
    chat.main([str(tmp_path / 'model'), *argv])
    one, other = capsys.readouterr().out.splitlines()
    assert one == other


def test_a_stage_directory_and_a_prompt_will_do(chain, capsys):
    chat.main([str(chain / 'sft'), '--prompt', 'Hello'])
    assert capsys.readouterr().out.endswith('\n')


def test_an_answer_may_fill_half_of_the_positions(model):
    assert chat.Talker(model, GREEDY).context == 64  # of 128


# ---- The conversation ---------------------------------------------------------------


def converse(talker, *said):
    """What was written, and the prompts that the talker saw, decoded."""
    lines = iter(said)
    written, seen = [], []

    class Listener:
        tokenizer, context = talker.tokenizer, talker.context

        def stream(self, ids):
            seen.append(talker.tokenizer.decode(ids, skip_special_tokens=True))
            return talker.stream(ids)

    def read(prompt):
        assert prompt == 'USER: '
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    listener: Any = Listener()
    chat.converse(listener, read, written.append)
    return ''.join(written), seen


def answers(written):
    return [part.split('\n')[0] for part in written.split('ASSISTANT: ')[1:]]


def test_turns_are_remembered_until_reset(talker):
    written, seen = converse(talker, 'one', 'two', '/reset', '', 'three', '/quit', 'no')
    assert len(seen) == 3
    assert ' one ' in seen[1] and ' two ' in seen[1]
    assert answers(written)[0] in seen[1]
    assert 'The conversation is forgotten.\n' in written
    assert ' one ' not in seen[2] and ' two ' not in seen[2]


def test_an_answer_is_made_anew_in_its_own_place(talker):
    _, seen = converse(talker, 'one', '/regenerate')
    assert seen[0] == seen[1]


def test_a_sampled_answer_differs_when_it_is_made_anew(model):
    sampler = sampling.Sampler(temperature=1.0)
    talker = chat.Talker(model, sampler, max_new_tokens=12, seed=0)
    written, _ = converse(talker, 'one', '/regenerate')
    first, second = answers(written)
    assert first != second


def test_an_answer_that_is_broken_off_counts_as_far_as_it_came(talker):
    seen = []

    class Broken:
        tokenizer, context = talker.tokenizer, talker.context

        def stream(self, ids):
            seen.append(talker.tokenizer.decode(ids, skip_special_tokens=True))
            for response in talker.stream(ids):
                yield response
                if len(seen) == 1 and len(response) == 6:
                    raise KeyboardInterrupt

    lines = iter(['one', 'two', '/quit'])
    listener: Any = Broken()
    written: list[str] = []
    chat.converse(listener, lambda _: next(lines), written.append)
    first, second = answers(''.join(written))
    assert first and ' one ' in seen[1] and ' two ' in seen[1]
    assert first.strip() in seen[1] and len(first) < len(second)


@pytest.mark.parametrize(
    'line, told',
    [
        ('/help', ''),
        ('/unknown', '/unknown is no command. '),
        ('/regenerate', 'There is no answer yet. '),
    ],
)
def test_commands_without_an_answer(talker, line, told):
    written, seen = converse(talker, line)
    assert written == told + chat.HELP + '\n' + '\n'  # and the end of the input
    assert not seen


def test_a_long_conversation_is_shortened_to_the_context(talker):
    # 128 positions less the 12 of an answer.
    assert talker.context == 116
    lengths = []

    class Counter:
        tokenizer, context = talker.tokenizer, talker.context

        def stream(self, ids):
            lengths.append(len(ids))
            yield []

    lines = iter(['a question'] * 4 + ['word ' * 300, '/quit'])
    listener: Any = Counter()
    written: list[str] = []
    chat.converse(listener, lambda _: next(lines), written.append)
    assert len(lengths) == 5
    told = [
        i for i, text in enumerate(written) if text.startswith('(Cut to the 116 tokens')
    ]
    # Each before its answer, the first question's not among them.
    assert told and told[0] > 0 and written[told[-1] + 1] == 'ASSISTANT: '
    assert max(lengths) <= 116
    assert lengths[0] < lengths[1]


# ---- Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'argv, expected',
    [
        (
            ['--max_new_tokens', '128'],
            'max_new_tokens=128 does not fit into the 128 positions of the model '
            'beside a prompt; use 1 to 127.',
        ),
        (['--max_new_tokens', '0'], 'max_new_tokens=0 does not fit'),
        (['--temperature', '-1'], 'temperature=-1.0; must not be negative.'),
        (['--top_p', '2'], 'top_p=2.0; must be in (0, 1].'),
        (
            ['--raw', '--max_new_tokens', '120', '--prompt', 'word ' * 20],
            'with --raw at most 8 fit',
        ),
    ],
)
def test_bad_options(argv, expected, model):
    argv = argv if '--prompt' in argv else [*argv, '--prompt', 'Hello']
    assert expected in micro.error(chat.main, [model, *argv])


def test_no_room_for_a_question(model):
    argv = [model, '--max_new_tokens', '120', '--prompt', 'Hello']
    line = micro.error(chat.main, argv)
    assert 'max_length=8 leaves no room for a question' in line


def test_a_directory_without_a_model(tmp_path):
    line = micro.error(chat.main, [str(tmp_path), '--prompt', 'Hello'])
    assert line.startswith(f"Error: '{tmp_path}' holds no model (config.json and ")


def test_a_score_model_does_not_talk(chain):
    line = micro.error(chat.main, [str(chain / 'reward'), '--prompt', 'Hello'])
    assert 'a score model (LlamaForScore), not a causal LM' in line


def test_raw_needs_a_prompt(model, capsys):
    with pytest.raises(SystemExit) as caught:
        chat.main([model, '--raw'])
    assert caught.value.code == 2
    assert '--raw needs --prompt' in capsys.readouterr().err
