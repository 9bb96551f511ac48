"""What is paid for: budgets of calls and tokens, and who waits for them."""

import threading

import pytest

from beaver_jax.evaluate.judges import ledger as ledger_lib


def test_tokens_are_reserved_until_a_call_ends(tmp_path):
    with ledger_lib.Ledger(tmp_path / 'x', max_calls=9, max_total_tokens=100) as ledger:
        first = ledger.begin('q', {}, 60)
        begun = threading.Event()

        def second():
            ledger.begin('r', {}, 60)  # 60 + 60 > 100, so it waits for the first
            begun.set()

        thread = threading.Thread(target=second)
        thread.start()
        assert not begun.wait(0.1)
        ledger.end(first, 'usable', 20, '', 'body')  # 20 + 60 <= 100
        thread.join()
        assert begun.is_set()
        assert ledger.totals() == (2, 80)
        assert ledger.answer('q') == 'body'
        assert ledger.answer('r') is None  # under way


def test_a_budget_holds_over_openings(tmp_path):
    for _ in range(2):
        with ledger_lib.Ledger(tmp_path / 'x', max_calls=2) as ledger:
            ledger.begin('q', {}, 1)  # never ends, as if killed
    with ledger_lib.Ledger(tmp_path / 'x', max_calls=2) as ledger:
        with pytest.raises(ledger_lib.BudgetSpent, match='max_calls=2 are spent'):
            ledger.begin('q', {}, 1)
        assert ledger.totals() == (2, 2)
    with (
        ledger_lib.Ledger(tmp_path / 'x', max_calls=9, max_total_tokens=10) as ledger,
        pytest.raises(ledger_lib.BudgetSpent, match='max_total_tokens=10'),
    ):
        ledger.begin('q', {}, 9)  # 2 + 9 > 10, and nothing is under way here


def waiting(ledger):
    """A thread that wants more tokens than are left, and what becomes of it."""
    told: list[object] = []

    def begin():
        try:
            told.append(ledger.begin('r', {}, 60))
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    return thread, told


def test_who_waits_for_tokens_does_not_call_after_a_stop(tmp_path):
    with ledger_lib.Ledger(tmp_path / 'x', max_calls=9, max_total_tokens=100) as ledger:
        first = ledger.begin('q', {}, 60)
        thread, told = waiting(ledger)
        ledger.stop()
        thread.join(10)
        assert isinstance(told[0], ledger_lib.Stopped)
        ledger.end(first, 'usable', 20, '', 'body')  # room for it, but too late
        with pytest.raises(ledger_lib.Stopped):
            ledger.begin('r', {}, 60)
        assert ledger.totals() == (1, 20)


def test_nobody_waits_for_a_call_whose_end_cannot_be_written(tmp_path, monkeypatch):
    def fail(*told):
        raise OSError('the disk is full')

    with ledger_lib.Ledger(tmp_path / 'x', max_calls=9, max_total_tokens=100) as ledger:
        first = ledger.begin('q', {}, 60)
        thread, told = waiting(ledger)
        monkeypatch.setattr(ledger, '_write_end', fail)
        with pytest.raises(OSError, match='disk is full'):
            ledger.end(first, 'usable', 20, '', 'body')
        thread.join(10)
        assert isinstance(told[0], ledger_lib.BudgetSpent)


def test_another_file_is_no_ledger(tmp_path):
    (tmp_path / 'x').write_text('Not a data base, but more than a hundred bytes. ' * 9)
    with pytest.raises(OSError, match='must be an SQLite file'):
        ledger_lib.Ledger(tmp_path / 'x', max_calls=1)
