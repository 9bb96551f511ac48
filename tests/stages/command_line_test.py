"""Names of models on a command line."""

from beaver_jax.stages import command_line


def test_names_are_given_or_those_of_the_directories():
    assert command_line.named(['runs/tiny/sft', 'b=runs/tiny/ppo', 'runs/x/model']) == {
        'sft': 'runs/tiny/sft',
        'b': 'runs/tiny/ppo',
        'x': 'runs/x/model',
    }
    assert command_line.named(['runs/a=b/sft']) == {'sft': 'runs/a=b/sft'}
    costs = command_line.named(['runs/tiny/cost', 'privacy'], default='harm')
    assert costs == {'harm': 'runs/tiny/cost', 'privacy': 'privacy'}
