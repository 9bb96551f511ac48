"""What the end of a command looks like that Ctrl-C interrupts."""

import pytest

from beaver_jax import terminal
from beaver_jax.chat import __main__ as chat


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, '_load', interrupted)
    with pytest.raises(SystemExit) as caught:
        chat.main(['model'])
    assert caught.value.code == 130
    assert capsys.readouterr() == ('', 'Interrupted.\n')


def test_its_traceback_is_kept_on_request(monkeypatch):
    monkeypatch.setenv('BEAVER_JAX_TRACEBACK', '1')
    with pytest.raises(KeyboardInterrupt), terminal.errors_in_a_line(ValueError):
        raise KeyboardInterrupt
