"""Votes of people on pairs of answers, in SQLite, and what they make of models."""

from collections.abc import Iterator
import contextlib
import sqlite3
import threading
from typing import Any

from beaver_jax.evaluate import elo

# 1 the first wins; that both are bad makes none of them better.
OUTCOMES = {'a': 1.0, 'b': 0.0, 'tie': 0.5, 'bad': 0.5}
_TABLE = """
create table if not exists votes (
    id integer primary key,
    time text not null default current_timestamp,
    battle text not null unique,
    first text not null,
    second text not null,
    vote text not null
)
"""


class Votes:
    """A file of votes; its methods may be called in any thread."""

    def __init__(self, path: str):
        """Opens a file, or makes it; '' keeps votes in memory only.

        Raises:
          OSError: It cannot be opened, or is no file of votes.
        """
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(
                path or ':memory:', check_same_thread=False
            )
            with self._database:
                self._database.execute(_TABLE)
                self._database.execute('select battle, first, second, vote from votes')
        except sqlite3.Error as error:
            raise OSError(f'--votes={path}: {error}') from error

    def add(self, battle: str, first: str, second: str, vote: str) -> bool:
        """Stores a vote; False if the battle has one."""
        with self._using() as database:
            try:
                database.execute(
                    'insert into votes (battle, first, second, vote) values (?,?,?,?)',
                    (battle, first, second, vote),
                )
            except sqlite3.IntegrityError:
                return False
        return True

    def ratings(self, names: list[str]) -> list[dict[str, Any]]:
        """Elo ratings of models by all votes between them, the best first.

        The first of the names is the anchor, at 1000; who is joined to it by no votes
        has no rating.
        """
        with self._using() as database:
            rows = database.execute('select first, second, vote from votes').fetchall()
        games = [
            elo.Comparison(first, second, OUTCOMES[vote])
            for first, second, vote in rows
            if first in names and second in names
        ]
        joined = _joined(games, names[0])
        rated = (
            elo.rate([g for g in games if g.first in joined], names[0])
            if (len(joined) > 1)
            else {}
        )
        found = [
            {
                'model': name,
                'votes': sum(name in (game.first, game.second) for game in games),
                'rating': rated[name].rating if name in rated else None,
                'low': rated[name].low if name in rated else None,
                'high': rated[name].high if name in rated else None,
            }
            for name in names
        ]
        return sorted(found, key=lambda row: -(row['rating'] or 0))

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            yield self._database


def _joined(games: list[elo.Comparison], anchor: str) -> set[str]:
    """Models that a chain of comparisons joins to the anchor, itself among them."""
    found: set[str] = set()
    new = {anchor}
    while new:
        found |= new
        pairs = [{game.first, game.second} for game in games]
        new = set().union(*(pair for pair in pairs if pair & found)) - found
    return found
