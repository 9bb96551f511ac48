import textwrap

import pytest

from beaver_jax import config

FILE = '''
"""Teaches a policy.

    python -m beaver_jax.train --config=configs/teach.py
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from beaver_jax import config

STEPS = {'tiny': 10, 'llama-7b': 1000}


def get_config(preset='tiny'):
    if preset not in STEPS:
        raise config.unknown_preset(preset, STEPS)
    page = ConfigDict()
    page.run = 'runs/tiny'
    page.seed = 0
    page.steps = STEPS[preset]
    page.resume = True
    page.eval_prompts = None
    page.actor = ConfigDict()
    page.actor.init = page.get_oneway_ref('run') + '/sft'
    page.actor.max_norm = placeholder(float)
    page.actor.optimizer = ConfigDict()
    page.actor.optimizer.learning_rate = 1e-4
    page.actor.optimizer.betas = (0.9, 0.95)
    page.actor.lora = ('attention', 'mlp')
    return page
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with configs/teach.py and configs/reward.py."""
    (tmp_path / 'configs').mkdir()
    for name in ('teach', 'reward'):
        (tmp_path / 'configs' / f'{name}.py').write_text(FILE.lstrip())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message(path, **overrides):
    with pytest.raises(config.ConfigError) as caught:
        config.load(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    'argument, expected',
    [
        ('', ('', {})),
        ('tiny', ('tiny', {})),
        ('tiny,seed=3,actor.lr=1e-4', ('tiny', {'seed': '3', 'actor.lr': '1e-4'})),
        ('seed=3', ('', {'seed': '3'})),
        (
            'tiny,betas=(0.1, 0.2),seed=3',
            ('tiny', {'betas': '(0.1, 0.2)', 'seed': '3'}),
        ),
        ('tiny,a=1,a=2', ('tiny', {'a': '2'})),
        ('tiny,run=a=b', ('tiny', {'run': 'a=b'})),
    ],
)
def test_parse(argument, expected):
    assert config.parse(argument) == expected


@pytest.mark.parametrize('argument', ['tiny,seed', 'tiny,', 'tiny,=3'])
def test_parse_names_the_part_that_is_no_override(argument):
    part = argument.removeprefix('tiny,')
    with pytest.raises(config.ConfigError, match='is not KEY=VALUE') as caught:
        config.parse(argument)
    assert str(caught.value).startswith(f'{part!r} in {argument!r}')


def test_load_takes_the_default_preset_or_the_named_one():
    assert config.load('configs/teach.py').steps == 10
    assert config.load('configs/teach.py:llama-7b').steps == 1000
    assert config.load('configs/teach.py,seed=4').seed == 4


def test_later_overrides_count():
    page = config.load('configs/teach.py:tiny,seed=1,steps=3', {'seed': '2'})
    assert (page.seed, page.steps) == (2, 3)


@pytest.mark.parametrize(
    'key, text, expected',
    [
        ('seed', '-7', -7),
        ('resume', 'false', False),
        ('resume', '1', True),
        ('run', '3', '3'),
        ('run', 'none', 'none'),
        ('eval_prompts', '3', 3),
        ('eval_prompts', 'null', None),
        ('eval_prompts', 'data/prompts.jsonl', 'data/prompts.jsonl'),
        ('eval_prompts', '[1, "a"]', (1, 'a')),
        ('actor.max_norm', '1', 1.0),
        ('actor.max_norm', 'None', None),
        ('actor.optimizer.learning_rate', '1', 1.0),
        ('actor.optimizer.learning_rate', '3e-5', 3e-5),
        ('actor.optimizer.betas', '0.5,0.75', (0.5, 0.75)),
        ('actor.optimizer.betas', '(1, 0.75)', (1.0, 0.75)),
        ('actor.lora', '["mlp"]', ('mlp',)),
        ('actor.lora', '', ()),
    ],
)
def test_a_value_has_the_type_of_its_default(key, text, expected):
    value = config.flatten(config.load('configs/teach.py', {key: text}))[key]
    assert value == expected
    assert type(value) is type(expected)


def test_a_value_made_from_another_follows_it_unless_it_is_set():
    assert config.load('configs/teach.py', {'run': 'x'}).actor.init == 'x/sft'
    page = config.load('configs/teach.py', {'actor.init': 'y', 'run': 'x'})
    assert (page.run, page.actor.init) == ('x', 'y')


def test_the_loaded_config_is_locked():
    page = config.load('configs/teach.py')
    with pytest.raises(AttributeError):
        page.actor.lr = 1.0


def test_unknown_files_presets_and_keys_name_the_nearest():
    assert message('configs/teech.py') == (
        "config file 'configs/teech.py' does not exist; did you mean configs/teach.py?"
    )
    assert 'did you mean configs/teach.py?' in message('teach')
    assert 'configs are configs/reward.py, configs/teach.py.' in message('configs/q.py')
    assert message('configs/teach.py:tinny') == (
        "configs/teach.py: preset 'tinny' does not exist; did you mean tiny? "
        'there are tiny, llama-7b.'
    )
    assert message('configs/teach.py', **{'actor.optimiser.learning_rate': '1'}) == (
        'config.actor.optimiser.learning_rate does not exist; '
        'did you mean config.actor.optimizer.learning_rate?'
    )
    assert 'mean config.actor.optimizer.betas?' in message(
        'configs/teach.py', betas='1'
    )
    assert '--help lists every key' in message('configs/teach.py', qqq='1')
    assert 'config.seed.x does not exist' in message('configs/teach.py,seed.x=1')


def test_a_group_is_not_a_value():
    assert message('configs/teach.py', **{'actor.optimizer': '1'}) == (
        'config.actor.optimizer is a group; set one of '
        'config.actor.optimizer.betas, config.actor.optimizer.learning_rate.'
    )


@pytest.mark.parametrize(
    'key, text, expected',
    [
        ('seed', '0.5', 'a whole number; the default is 0.'),
        ('resume', 'maybe', 'true or false; the default is True.'),
        ('resume', '2', 'true or false; the default is True.'),
        ('actor.max_norm', 'big', 'a number; the default is None.'),
        ('actor.optimizer.learning_rate', 'none', 'a number; the default is 0.0001.'),
        (
            'actor.optimizer.betas',
            '0.9,x',
            'a tuple like the default; the default is (0.9, 0.95).',
        ),
    ],
)
def test_a_value_of_another_type_names_the_expected_one(key, text, expected):
    found = message('configs/teach.py', **{key: text})
    assert found == f'config.{key}={text!r} is not {expected}'


def test_a_file_without_a_config_is_named(folder):
    (folder / 'configs' / 'none.py').write_text('x = 1\n')
    assert message('configs/none.py').startswith('configs/none.py has no function')
    source = 'def get_config():\n    return {}\n'
    (folder / 'configs' / 'plain.py').write_text(source)
    assert 'get_config returned dict' in message('configs/plain.py')


def test_from_argv_takes_both_spellings():
    page = config.from_argv(
        ['--config=configs/teach.py:llama-7b,seed=1', '--config.seed', '-2']
    )
    assert (page.steps, page.seed) == (1000, -2)
    page = config.from_argv(['--config', 'configs/teach.py', '--config.run=a=b'])
    assert page.run == 'a=b'


@pytest.mark.parametrize(
    'argv, expected',
    [
        ([], '--config=FILE is missing; the configs are configs/reward.py, '),
        (['--confg=configs/teach.py'], 'did you mean --config?'),
        (['--config=configs/teach.py', '--seed=1'], "argument '--seed=1' is unknown"),
        (['--config=configs/teach.py', '--config.seed'], 'write --config.seed=VALUE'),
        (['--config', '--config.seed=1'], 'write --config=VALUE'),
        (['--config=configs/teach.py', '--config.sed=1'], 'did you mean config.seed?'),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(argv, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        config.from_argv(argv)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith('Error: ')
    assert printed.err.count('\n') == 1
    assert expected in printed.err


def test_help_shows_the_docstring_and_keys_that_can_be_pasted(capsys):
    with pytest.raises(SystemExit) as caught:
        config.from_argv(['--config=configs/teach.py:tiny,seed=5', '--help'])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'Teaches a policy.'
    keys = [
        line.partition('  # ')[0].strip()
        for line in lines
        if line.startswith('  --config.')
    ]
    assert any(
        line.endswith('# of data order, sampling and fresh parameters')
        for line in lines
    )
    assert '--config.seed=5' in keys
    assert '--config.actor.optimizer.betas=0.9,0.95' in keys
    # Pasted back, they change nothing.
    again = config.from_argv(['--config=configs/teach.py', *keys])
    assert again == config.load('configs/teach.py,seed=5')


def test_help_without_a_config_lists_the_configs(capsys):
    with pytest.raises(SystemExit) as caught:
        config.from_argv(['--help'])
    assert caught.value.code == 0
    assert 'configs/teach.py' in capsys.readouterr().out


def test_an_error_of_the_config_itself_keeps_its_traceback(folder):
    source = textwrap.dedent("""
        def get_config():
            return 1 / 0
    """)
    (folder / 'configs' / 'broken.py').write_text(source)
    with pytest.raises(ZeroDivisionError):
        config.from_argv(['--config=configs/broken.py'])
