"""Names of paths on a command line, and paths that were moved."""

import pytest

from beaver_jax import layout


def test_names_are_given_or_those_of_the_directories():
    assert layout.named(['runs/tiny/sft', 'b=runs/tiny/ppo', 'runs/x/model']) == {
        'sft': 'runs/tiny/sft',
        'b': 'runs/tiny/ppo',
        'x': 'runs/x/model',
    }
    assert layout.named(['runs/a=b/sft']) == {'sft': 'runs/a=b/sft'}
    costs = layout.named(['runs/tiny/cost', 'privacy'], default='harm')
    assert costs == {'harm': 'runs/tiny/cost', 'privacy': 'privacy'}


@pytest.mark.parametrize(
    ('given', 'named'),
    [
        (['runs/tiny', 'runs/loose'], {'tiny': 'runs/tiny', 'loose': 'runs/loose'}),
        (['a=x/tiny', 'x/tiny/'], {'a': 'x/tiny', 'tiny': 'x/tiny/'}),
        (['runs/lr=1'], {'lr=1': 'runs/lr=1'}),
        (['a=x=y'], {'a': 'x=y'}),
    ],
)
def test_what_is_a_name_and_what_a_path(given, named):
    found = layout.named(given)
    assert found == named
    assert list(found) == list(named)


def test_names_that_are_none():
    with pytest.raises(ValueError, match="'my run' cannot be a name; use NAME=my run"):
        layout.named(['my run'])
    with pytest.raises(ValueError, match="'' cannot be a name; use NAME=x"):
        layout.named(['=x'])
    with pytest.raises(ValueError, match="'a/x' and 'b/x' are both called 'x'"):
        layout.named(['a/x', 'b/x'])


def test_a_directory_is_not_cut_at_its_equals_sign(tmp_path, monkeypatch):
    (tmp_path / 'lr=1').mkdir()
    monkeypatch.chdir(tmp_path)
    assert [*layout.named(['lr=1'])] == ['lr=1']


def test_paths_within_a_directory_that_was_moved():
    for value, expected in (
        ('runs/a', 'RUN'),
        ('runs/a/sft', 'RUN/sft'),
        ('sft=runs/a/sft,ppo=runs/a/ppo', 'sft=RUN/sft,ppo=RUN/ppo'),
        ('x/runs/a/m', 'x/runs/a/m'),
        ('runs/ab/m', 'runs/ab/m'),
    ):
        assert layout.moved(value, 'runs/a', 'RUN') == expected
    assert layout.moved('data/a/rows.jsonl', 'a', 'RUN') == 'data/a/rows.jsonl'
