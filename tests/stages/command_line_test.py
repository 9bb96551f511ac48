"""Options of commands that name models: their help, and what is refused."""

import argparse
import json
import re

import pytest

from beaver_jax.stages import command_line


def parser():
    made = command_line.parser('beaver_jax.x', 'About it.')
    command_line.add_models(made)
    command_line.add_score_models(made, 'a use')
    command_line.add_dtype(made)
    return made


def told(help_text):
    """What a help text says of each option."""
    entries = re.split(r'\n  (?=--)', help_text)[1:]
    return {entry.split()[0]: ' '.join(entry.split()) for entry in entries}


def test_help_tells_defaults_that_are_something():
    made = parser()
    made.add_argument('--count', type=int, default=0, help='so many')
    made.add_argument('--flag', action='store_true', help='a flag')
    made.add_argument('--file', default='', help='a file')
    text = made.format_help()
    assert 'About it.' in text
    lines = told(text)
    assert lines['--count'] == '--count COUNT so many (default: 0)'
    assert lines['--dtype'].endswith('float32 on CPUs (default: auto)')
    assert text.count('default') == 2


def test_one_reward_model_is_named(capsys):
    assert parser().parse_args(['m', '--reward', 'a']).reward == 'a'
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(['m', '--reward', 'a', '--reward', 'b'])
    assert caught.value.code == 2
    assert (
        "argument --reward: given twice, as 'a' and as 'b'; leave one out"
        in capsys.readouterr().err
    )
    assert parser().parse_args(['m', '--cost', 'a', '--cost', 'b']).cost == ['a', 'b']


@pytest.fixture
def score_model(tmp_path):
    """Makes what passes for a score model until it is loaded."""

    def make(name, **fields):
        directory = tmp_path / name
        directory.mkdir()
        config = {'model_type': 'llama', 'architectures': ['LlamaForScore'], **fields}
        (directory / 'config.json').write_text(json.dumps(config))
        (directory / 'model.safetensors').touch()
        return str(directory)

    return make


def paths(**given):
    given = {'models': [], 'reward': None, 'cost': []} | given
    return command_line.paths(argparse.Namespace(**given))


def test_a_score_model_may_be_of_the_type_that_is_meant_or_of_none(score_model):
    reward = score_model('a', score_type='reward')
    cost = score_model('b', score_type='cost')
    other = score_model('c')
    assert paths(reward=reward, cost=[cost, f'c={other}']) == (
        {},
        {'reward': reward, 'harm': cost, 'c': other},
    )
    assert paths(reward=other) == ({}, {'reward': other})


@pytest.mark.parametrize('option', ['reward', 'cost'])
def test_the_option_of_a_path_without_a_score_model_is_told(option):
    with pytest.raises(ValueError, match=rf"--{option}: 'nowhere' holds no model"):
        paths(**{option: ['nowhere'] if option == 'cost' else 'nowhere'})


@pytest.mark.parametrize(
    ('option', 'own', 'way'),
    [
        ('reward', 'cost', 'name a reward model, or give this one as --cost.'),
        ('cost', 'reward', 'name a cost model, or give this one as --reward.'),
        ('reward', 'critic', 'name a reward model.'),
    ],
)
def test_a_score_model_of_another_type_is_refused(score_model, option, own, way):
    path = score_model('x', score_type=own)
    with pytest.raises(ValueError) as caught:
        paths(**{option: [path] if option == 'cost' else path})
    assert str(caught.value) == (
        f'--{option}: {path!r} is a {own} model (score_type in its config.json); {way}'
    )
