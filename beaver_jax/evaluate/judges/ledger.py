"""Every call of a judge, on disk before it is sent: its budget and its memory.

A call is written down before it is sent and again when it ends, each time with fsync.
So a run that is killed at any moment has counted every call, and finds every answer
that had come.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import pathlib
import sqlite3
import threading
import time
from typing import Any, Literal, NamedTuple

State = Literal['sent', 'usable', 'unusable', 'error']

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  id INTEGER PRIMARY KEY,
  question TEXT NOT NULL,   -- hash of the URL and the whole request
  request TEXT NOT NULL,    -- as it was sent
  began REAL NOT NULL,      -- seconds since 1970
  state TEXT NOT NULL,      -- sent, then usable, unusable or error
  tokens INTEGER NOT NULL,  -- used; of a call that reported none, the most it could be
  reason TEXT,              -- why it is not usable
  body TEXT                 -- of the response, raw
);
CREATE INDEX IF NOT EXISTS calls_by_question ON calls (question, state);
"""
_TOTALS = 'SELECT COUNT(*), COALESCE(SUM(tokens), 0) FROM calls'


class BudgetSpent(Exception):
    """No further call is within the budget."""


class Stopped(Exception):
    """No further call may begin."""


class Totals(NamedTuple):
    """What was spent."""

    calls: int
    tokens: int


def question(url: str, request: dict[str, Any]) -> str:
    """The key of a request: equal for equal requests to one URL."""
    told = json.dumps([url, request], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


class Ledger:
    """The calls of a file. Threads and processes may share it; a context manager."""

    def __init__(
        self, path: pathlib.Path, *, max_calls: int, max_total_tokens: int = 0
    ):
        """Opens or makes the file.

        Args:
          path: An SQLite database.
          max_calls: The most calls that it may ever hold.
          max_total_tokens: The most tokens of all of them; 0 for no bound.

        Raises:
          OSError: It cannot be read or written, or is something else.
        """
        self._path, self._max_calls = path, max_calls
        self._max_tokens = max_total_tokens
        # Notified when a call ends, which may leave tokens that it had reserved.
        self._ended = threading.Condition()
        self._open = 0  # calls of this process that are under way
        self._stopped = False
        with self._explained():
            self._base = sqlite3.connect(
                path, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._base.execute('PRAGMA synchronous=FULL')
            self._base.executescript(_SCHEMA)

    def __enter__(self) -> 'Ledger':
        return self

    def __exit__(self, *unused: object) -> None:
        self._base.close()

    def answer(self, question: str) -> str | None:
        """The body of the usable response to a question, if one was stored."""
        row = self._one(
            'SELECT body FROM calls WHERE question = ? AND state = ?',
            (question, 'usable'),
        )
        return row[0] if row else None

    def unusable(self, question: str) -> list[str]:
        """Why each response that was paid for and of no use was of none."""
        with self._locked():
            found = self._base.execute(
                'SELECT reason FROM calls WHERE question = ? AND state = ?',
                (question, 'unusable'),
            )
            return [reason for (reason,) in found]

    def begin(self, question: str, request: dict[str, Any], tokens: int) -> int:
        """Writes down a call that is about to be sent.

        While calls under way hold tokens that they may not need, it waits for them.

        Args:
          question: Its key.
          request: As it is sent.
          tokens: The most that it can use.

        Returns:
          The number of the call, for `end`.

        Raises:
          BudgetSpent: The call is not within the budget.
          Stopped: After `stop`, also while it waits.
        """
        with self._ended:
            while not self._stopped:
                number = self._try_begin(question, request, tokens)
                if number is not None:
                    self._open += 1
                    return number
                if not self._open:
                    raise BudgetSpent(f'max_total_tokens={self._max_tokens} are spent')
                self._ended.wait()
            raise Stopped

    def stop(self) -> None:
        """Lets no further call begin."""
        with self._ended:
            self._stopped = True
            self._ended.notify_all()

    def end(
        self, number: int, state: State, tokens: int | None, reason: str, body: str
    ) -> None:
        """Writes down how a call ended.

        Args:
          number: Of the call.
          state: What its response is.
          tokens: That it used; None if unknown: then the most that it could.
          reason: Why the response is not usable.
          body: Of the response.
        """
        with self._ended:
            try:
                self._write_end(number, state, tokens, reason, body)
            finally:  # the call is over, written down or not
                self._open -= 1
                self._ended.notify_all()

    def totals(self) -> Totals:
        """What all calls of the file have spent."""
        return Totals(*self._one(_TOTALS))

    def _try_begin(
        self, question: str, request: dict[str, Any], tokens: int
    ) -> int | None:
        """The number of a new call; None if the tokens left are too few for now."""
        with self._explained(), self._transaction():
            spent = Totals(*self._base.execute(_TOTALS).fetchone())
            if spent.calls >= self._max_calls:
                raise BudgetSpent(f'max_calls={self._max_calls} are spent')
            if self._max_tokens and spent.tokens + tokens > self._max_tokens:
                return None
            cursor = self._base.execute(
                'INSERT INTO calls (question, request, began, state, tokens)'
                ' VALUES (?, ?, ?, ?, ?)',
                (question, json.dumps(request), time.time(), 'sent', tokens),
            )
            return cursor.lastrowid

    def _write_end(self, number: int, *told: object) -> None:
        with self._explained():
            self._base.execute(
                'UPDATE calls SET state = ?, tokens = COALESCE(?, tokens), reason = ?,'
                ' body = ? WHERE id = ?',
                (*told, number),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE: no other process may spend between our reading and our writing.
        self._base.execute('BEGIN IMMEDIATE')
        try:
            yield
        except BaseException:
            self._base.execute('ROLLBACK')
            raise
        self._base.execute('COMMIT')

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        with self._locked():
            return self._base.execute(query, values).fetchone()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._ended, self._explained():
            yield

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(
                f'{self._path}, which holds what a judge has answered: {error}; it '
                'must be an SQLite file in a directory with space and permission.'
            ) from error
