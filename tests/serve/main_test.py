import socket

import pytest

from beaver_jax.serve import __main__ as main_lib
from beaver_jax.serve import address
from beaver_jax.serve import limits
from tests import micro
from tests.serve import small
from tests.stages import command_line_test


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['a/x', 'b/x'], "'a/x' and 'b/x' are both called 'x'; use NAME=PATH"),
        (['a b=x'], "'a b' cannot be a name"),
        (['x', '--slots', '0'], '--slots=0; must be at least 1'),
        (['x', '--queue', '-1'], '--queue=-1; must be at least 0'),
        (['x', '--seconds', 'nan'], '--seconds=nan; must be above 0'),
        (['x', '--seconds', 'inf'], '--seconds=inf; must be above 0, and finite'),
        (['x', '--host', '0.0.0.0'], '--host=0.0.0.0 serves others than this machine'),
        (['x', '--token', 'NO_SUCH_VARIABLE'], 'there is no such environment variable'),
        (['x', '--cost', 'reward=y'], 'a cost model may not be called reward'),
        (['x'], "'x' holds no model (config.json and "),
    ],
    ids=str,
)
def test_command_lines_that_are_refused(argv, message):
    assert message in micro.error(main_lib.main, argv)


def test_help_tells_defaults_once(capsys):
    with pytest.raises(SystemExit):
        main_lib.main(['--help'])
    lines = command_line_test.told(capsys.readouterr().out)
    held = {f'--{name}': value for name, value in vars(limits.Limits()).items()}
    told = {'--host': '127.0.0.1', '--port': 8000, '--dtype': 'auto'} | held
    for name, line in lines.items():
        default = f' (default: {told[name]})' if name in told else ''
        assert line.count('default') == bool(default), line
        assert line.endswith(default), line


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """What passes for a model, until it is loaded."""
    monkeypatch.setattr(main_lib.command_line, 'paths', lambda _: ({}, {}))
    monkeypatch.setattr(main_lib, '_load', lambda *unused: 1 / 0)
    return str(tmp_path)


def test_what_cannot_serve_is_told_before_models_are_loaded(directory):
    def error(*options):
        return micro.error(main_lib.main, [directory, *options])

    for port in ('70000', '-1'):
        assert f'--port={port}; must be 0 to 65535.' in error('--port', port)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        told = error('--port', str(port))
        assert told == (
            f'Error: --host=127.0.0.1 --port={port}: Address already in use; choose '
            'another --port, or 0 for a free one'
        )
    folder = error('--port', '0', '--votes', directory)
    assert f'--votes={directory}: unable to open' in folder


def test_a_reward_model_is_no_cost_model(tmp_path, monkeypatch):
    monkeypatch.setattr(main_lib, '_load', lambda *unused: 1 / 0)
    model = small.language_model(tmp_path / 'talker')
    reward = small.score_model(tmp_path / 'reward', 'reward')
    line = micro.error(main_lib.main, [model, '--cost', f'harm={reward}'])
    assert line == (
        f'Error: --cost: {reward!r} is a reward model (score_type in its config.json); '
        'name a cost model, or give this one as --reward.'
    )


def test_a_name_is_bound_at_its_addresses_and_left_where_that_fails():
    one, *others = address.bind('localhost', 0)
    port = one.getsockname()[1]
    one.listen()
    with pytest.raises(OSError, match=f'--host=localhost --port={port}: Address alre'):
        address.bind('localhost', port)
    for held in (one, *others):
        held.close()
    for again in address.bind('localhost', port):
        again.close()
    with pytest.raises(OSError, match=r'--host=no\.such\.host\.invalid --port=0: '):
        address.bind('no.such.host.invalid', 0)


@pytest.mark.parametrize(
    ('prompt', 'answer', 'positions', 'expected'),
    [
        (0, 0, 4096, (1024, 1024)),
        (0, 0, 256, (128, 128)),
        (200, 0, 256, (200, 56)),
        (0, 200, 256, (56, 200)),
        (3000, 0, 4096, (3000, 1024)),
        (100, 156, 256, (100, 156)),
    ],
)
def test_lengths_by_hand(prompt, answer, positions, expected):
    given = limits.Limits(prompt_tokens=prompt, answer_tokens=answer)
    found = given.within(positions)
    assert (found.prompt_tokens, found.answer_tokens) == expected


@pytest.mark.parametrize(('prompt', 'answer'), [(100, 157), (256, 0), (0, 256)])
def test_lengths_that_do_not_fit(prompt, answer):
    given = limits.Limits(prompt_tokens=prompt, answer_tokens=answer)
    with pytest.raises(ValueError, match='do not fit into the 256 positions') as caught:
        given.within(256)
    for name, value in (('prompt', prompt), ('answer', answer)):
        assert (f'--{name}_tokens={value}' in str(caught.value)) == bool(value)


def test_a_request_is_never_larger_than_the_queue():
    given = limits.Limits(slots=4, queue=8, choices=16)
    assert given.within(256).choices == 12  # no more would ever be let in
    assert limits.Limits(slots=4, queue=8, choices=3).within(256).choices == 3
