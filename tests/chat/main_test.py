"""The command: one answer, raw text, several models, scores, and what is refused."""

import dataclasses
import io
import re
import shutil

import jax.numpy as jnp
import pytest

from beaver_jax.chat import __main__ as main_lib
from beaver_jax.chat import conversation
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from tests import micro
from tests.chat import greedy
from tests.stages import command_line_test

QUESTION = 'Sir, how do I make tea?'
GREEDY = ('--temperature', '0', '--max_new_tokens', '12')


def test_one_answer(model, talker, capsys):
    argv = [model, '--temperature', '0', '--max_new_tokens', '12']
    main_lib.main([*argv, '--prompt', QUESTION])
    ids = tokenizer_lib.encode_prompt(talker.tokenizer, (QUESTION,), max_length=99)
    expected = tokenizer_lib.decode(talker.tokenizer, greedy.answer(model, ids, 12))
    assert capsys.readouterr().out == expected + '\n'


def test_raw_text_is_continued_as_it_stands(model, talker, capsys):
    argv = [model, '--temperature', '0', '--max_new_tokens', '12', '--raw']
    main_lib.main([*argv, '--prompt', 'Boil the'])
    ids = talker.tokenizer('Boil the')['input_ids']
    assert ids[0] == talker.tokenizer.bos_token_id
    both = talker.tokenizer.decode(
        ids + greedy.answer(model, ids, 12), skip_special_tokens=True
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
    main_lib.main([model, *argv])
    main_lib.main([str(tmp_path / 'model'), *argv])
    one, other = capsys.readouterr().out.splitlines()
    assert one == other


def test_a_stage_directory_and_a_prompt_will_do(chain, capsys):
    main_lib.main([str(chain / 'sft'), '--prompt', 'Hello'])
    assert capsys.readouterr().out.endswith('\n')


def test_several_models_answer_one_prompt_and_are_scored(model, chain, capsys):
    scores = ['--reward', str(chain / 'reward'), '--cost', f'risk={chain / "cost"}']
    argv = [f'mine={model}', str(chain / 'sft'), *GREEDY, *scores]
    main_lib.main([*argv, '--prompt', QUESTION])
    one, other, *told = capsys.readouterr().out.splitlines()
    assert one.startswith('mine: ') and other.startswith('sft: ')
    numbers = r'reward -?\d+\.\d\d, cost risk -?\d+\.\d\d, (un)?safe\)'
    assert [re.fullmatch(rf'\((\w+): {numbers}', line)[1] for line in told] == [
        'mine',
        'sft',
    ]
    main_lib.main([model, *GREEDY, '--prompt', QUESTION])
    assert capsys.readouterr().out == one.removeprefix('mine: ') + '\n'


def test_a_conversation_from_a_pipe(model, monkeypatch, capsys):
    monkeypatch.setattr('sys.stdin', io.StringIO('Hello\n/clear\n/quit\n'))
    main_lib.main([f'a={model}', f'b={model}', *GREEDY])
    help_line, *lines = capsys.readouterr().out.splitlines()
    assert help_line == conversation.HELP
    assert lines[0] == 'USER: Hello'
    assert lines[1].removeprefix('ASSISTANT (a)') == lines[2].removeprefix(
        'ASSISTANT (b)'
    )
    assert lines[3:] == ['USER: /clear', 'USER: /quit']


def test_raw_text_of_several_models(model, capsys):
    argv = [f'a={model}', f'b={model}', *GREEDY, '--raw', '--prompt', 'Boil the']
    main_lib.main(argv)
    a, b = capsys.readouterr().out.splitlines()
    assert a.startswith('a: Boil the') and b == 'b' + a[1:]


def test_raw_text_can_be_broken_off(model, monkeypatch, capsys):
    def stopped(talker, ids, write, *, raw):
        write('Boil the')
        raise KeyboardInterrupt

    monkeypatch.setattr(main_lib.talker_lib, 'print_stream', stopped)
    argv = [f'a={model}', f'b={model}', *GREEDY, '--raw', '--prompt', 'Boil the']
    main_lib.main(argv)
    assert capsys.readouterr().out == 'a: Boil the\nb: Boil the\n'


def test_help_tells_defaults(capsys):
    with pytest.raises(SystemExit):
        main_lib.main(['--help'])
    lines = command_line_test.told(capsys.readouterr().out)
    found = {
        name: re.findall(r'\(default: (.*)\)', line) for name, line in lines.items()
    }
    assert {name: values for name, values in found.items() if values} == {
        '--temperature': ['1.0'],
        '--top_k': ['0'],
        '--top_p': ['1.0'],
        '--repetition_penalty': ['1.0'],
        '--seed': ['0'],
        '--dtype': ['auto'],
    }


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
    assert expected in micro.error(main_lib.main, [model, *argv])


def test_no_room_for_a_question(model):
    argv = [model, '--max_new_tokens', '120', '--prompt', 'Hello']
    line = micro.error(main_lib.main, argv)
    assert 'max_length=8 leaves no room for a question' in line


def test_a_directory_without_a_model(tmp_path):
    line = micro.error(main_lib.main, [str(tmp_path), '--prompt', 'Hello'])
    assert line.startswith(f"Error: '{tmp_path}' holds no model (config.json and ")


def test_a_score_model_does_not_talk(chain):
    line = micro.error(main_lib.main, [str(chain / 'reward'), '--prompt', 'Hello'])
    assert line.endswith("reward' is a score model; name a language model.")


def test_a_language_model_does_not_score(model, chain):
    line = micro.error(main_lib.main, [model, '--cost', str(chain / 'sft')])
    assert line.endswith("sft' is a language model; name a score model.")


def test_a_cost_model_is_no_reward_model(model, chain):
    line = micro.error(main_lib.main, [model, '--reward', str(chain / 'cost')])
    assert "cost' is a cost model (score_type in its config.json); " in line
    line = micro.error(main_lib.main, [model, '--cost', str(chain / 'reward')])
    assert line.endswith('name a cost model, or give this one as --reward.')


def test_a_run_names_the_models_in_it(chain):
    line = micro.error(main_lib.main, [str(chain)])
    assert f' Language models in it: {chain / "ppo_lag"}, {chain / "sft"}.' in line
    assert f' Score models in it: {chain / "cost"}, {chain / "reward"}.' in line


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (['--raw', '--prompt', 'x', '--reward', 'y'], '--raw is no conversation'),
        (['--prompt', ' '], '--prompt is empty'),
        (['--prompt', 'x', '--prompt', 'y'], "--prompt: given twice, as 'x' and as"),
        (['--reward', 'x', '--reward', 'y'], "--reward: given twice, as 'x' and as"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main_lib.main(['model', *options])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_raw_needs_a_prompt(model, capsys):
    with pytest.raises(SystemExit) as caught:
        main_lib.main([model, '--raw'])
    assert caught.value.code == 2
    assert '--raw needs --prompt' in capsys.readouterr().err
