"""What `config.data` says of sources: entries, separated by commas.

An entry is a path with an optional proportion, `rows.jsonl:0.5`, whose rows are told by
their columns; or, as in safe-rlhf, `name[:proportion[:path]]`, with a name from
`adapters.ADAPTERS` or that of a function of the user's own.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import importlib.util
import inspect
import os
import pathlib
from typing import Any

import numpy as np

from beaver_jax.data import adapters
from beaver_jax.data import files
from beaver_jax.data import rows

# The parts of a record that config.data.columns may name.
PARTS = (
    *('prompt', 'response', 'safe', 'response_0', 'response_1', 'better', 'safer'),
    *('safe_0', 'safe_1', 'severity_0', 'severity_1', 'harm.NAME_0', 'harm.NAME_1'),
)
_MOST = 10**9  # rows; more is a mistake


@dataclasses.dataclass(frozen=True)
class Proportion:
    """How many rows of a set: a share of them, above 1 for repeats, or a number."""

    share: float = 1.0
    rows: int | None = None

    def of(self, count: int) -> int:
        """How many of `count` rows, repeats included."""
        if self.rows is not None:
            return self.rows if count else 0
        return round(count * self.share)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A source of rows, how they become records, and how many are wanted."""

    path: str  # a file, a directory or the name of a data set on the hub
    adapter: adapters.Adapter | None = None  # None: by the columns of each row
    name: str = ''  # of the adapter
    proportion: Proportion = Proportion()
    split: str = ''  # of a directory or a data set
    folder: str = ''  # of a data set on the hub

    @property
    def wanted(self) -> bool:
        """Whether any row is; without, the source need not be there."""
        return self.proportion.share > 0 and self.proportion.rows != 0

    def check(self) -> None:
        """Raises `DataError` if a local path cannot be read that is wanted."""
        if self.wanted:
            files.check(self.path, self.split, self.folder)


def parse(
    text: str,
    own: Mapping[str, adapters.Adapter] | None = None,
    columns: adapters.Adapter | None = None,
) -> list[Spec]:
    """The sources that a text lists.

    Args:
        text: entries, separated by commas.
        own: the user's adapters by name, from `load`.
        columns: the adapter of entries without a name, from `parse_columns`; None goes
            by the columns of each row.

    Raises:
        DataError: an entry cannot be understood.
    """
    entries = [entry.strip() for entry in text.split(',')]
    return [_spec(entry, own or {}, columns) for entry in entries if entry]


def select(
    count: int, proportion: Proportion | float, seed: np.random.SeedSequence
) -> np.ndarray:
    """Indices of the rows that a proportion takes, in the file's order.

    Whole copies first; then what remains is drawn without replacement. Of one seed
    and as many rows they are those that safe-rlhf draws.

    Args:
        count: of all rows.
        proportion: of them.
        seed: of the draw; one of its own for each source.
    """
    if not isinstance(proportion, Proportion):
        proportion = Proportion(proportion)
    wanted = proportion.of(count)
    copies, rest = divmod(wanted, count) if count else (0, 0)
    drawn = np.tile(np.arange(count), copies)
    if rest:
        some = np.random.default_rng(seed).choice(count, size=rest, replace=False)
        drawn = np.concatenate([drawn, some])
    return np.sort(drawn)


def proportion(text: str) -> Proportion | None:
    """The proportion that a text spells: `0.5`, `1/2`, `2`, `100/-1`; None if none is.

    `n/-1` is exactly n rows.
    """
    above, slash, below = (part.strip() for part in text.partition('/'))
    try:
        if slash and int(below) == -1:
            number = int(above)
            return Proportion(rows=number) if 0 <= number <= _MOST else None
    except ValueError:
        pass
    try:
        share = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None
    return Proportion(share) if 0 <= share <= _MOST else None


def parse_columns(text: str) -> adapters.Columns | None:
    """The adapter of `prompt=question,response_0=a,…`; None of an empty text.

    Raises:
        DataError: a part is unknown, or lacks its column.
    """
    names: dict[str, str] = {}
    for entry in filter(None, (entry.strip() for entry in text.split(','))):
        part, equals, column = (piece.strip() for piece in entry.partition('='))
        if not equals or not column:
            raise rows.DataError(
                f'{entry!r} names no column; write PART=COLUMN, such as '
                'prompt=question.'
            )
        if not _is_part(part):
            raise rows.DataError(
                f'{entry!r}: {_unknown(part, PARTS)}; known: {", ".join(PARTS)}.'
            )
        if part in names:
            raise rows.DataError(f'{entry!r}: {part!r} is named twice.')
        names[part] = column
    if not names:
        return None
    _check_columns(names)
    return adapters.Columns(names)


def load(path: str) -> dict[str, adapters.Adapter]:
    """The public functions of a Python file, which is run, by name.

    Raises:
        DataError: the file is missing, cannot be run, or has none; or a name is taken.
    """
    if not path:
        return {}
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise rows.DataError(f'No file {path!r}; name a Python file of adapters.')
    spec = importlib.util.spec_from_file_location('beaver_jax_own_adapters', file)
    if spec is None or spec.loader is None:
        raise rows.DataError(f'{path} is no Python file; its name must end in .py.')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f'{error.filename}:{error.lineno}'
        raise rows.DataError(f'{where}: {error.msg}; correct the file.') from error
    except Exception as error:
        raise rows.DataError(
            f'{path} cannot be run ({type(error).__name__}: {error}); correct it.'
        ) from error
    found: dict[str, adapters.Adapter] = {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith('_')
    }
    if not found:
        raise rows.DataError(
            f'{path} has no public function; write one, row -> record.'
        )
    for name in found:
        if name in adapters.ADAPTERS:
            raise rows.DataError(
                f'{path}: {name} is the name of a data set; rename it.'
            )
    return found


# ---- Entries ------------------------------------------------------------------------


def _spec(
    entry: str,
    own: Mapping[str, adapters.Adapter],
    columns: adapters.Adapter | None,
) -> Spec:
    head, *rest = entry.split(':', 2)
    known = _source(head, own)
    if known is not None and not (rest and os.path.exists(entry)):
        return _named(entry, known, *rest)
    path, share = entry, Proportion()
    before, colon, after = entry.rpartition(':')
    if colon and not os.path.exists(entry):
        found = proportion(after)
        if found is not None:
            path, share = before, found
        elif os.path.exists(before):
            raise rows.DataError(_bad_proportion(entry, after))
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        _check_meant(path, entry, own)
    name = 'columns' if columns else ''
    return Spec(path, adapter=columns, name=name, proportion=share)


def _named(entry: str, known: Spec, share: str = '', path: str | None = None) -> Spec:
    found = proportion(share) if share else Proportion()
    if found is None:
        raise rows.DataError(_bad_proportion(entry, share))
    if path == '' or not (path or known.path):
        raise rows.DataError(
            f'{entry!r} names no file; write {known.name}:{share or 1}:PATH.'
        )
    if path is None:
        return dataclasses.replace(known, proportion=found)
    path = os.path.expanduser(path)
    # The folder of one data set on the hub; of a directory, where it is there.
    here = path == known.path or os.path.isdir(path)
    folder = known.folder if here else ''
    return dataclasses.replace(known, proportion=found, path=path, folder=folder)


def _source(name: str, own: Mapping[str, adapters.Adapter]) -> Spec | None:
    """What a name stands for, with its path on the hub, if it is known."""
    if name in own:
        return Spec('', own[name], name)
    base, _, split = name.partition('/')
    source = adapters.ADAPTERS.get(base)
    if source is None:
        return None
    if split and split not in source.splits:
        if os.path.exists(name) or not files.on_hub(name):
            return None  # a file in a directory of that name
        raise rows.DataError(
            f'{name!r} has no split {split!r}; known: {", ".join(source.splits)}.'
        )
    # `name:1:FILE` reads what the file has; a directory or data set has its splits.
    split = split or source.splits[0]
    adapter: adapters.Adapter = source.adapter
    if source.column:
        adapter = adapters.OfSplit(adapter, source.column, split)
        split = source.splits[0]
    return Spec(source.hub, adapter, name, Proportion(), split, source.folder)


def _check_meant(path: str, entry: str, own: Mapping[str, Any]) -> None:
    """Raises `DataError` for what is no path but may be meant as a name."""
    head = path.split(':', 1)[0]
    names = [
        *own,
        *(
            full
            for name, source in adapters.ADAPTERS.items()
            for full in (name, *(f'{name}/{split}' for split in source.splits))
        ),
    ]
    near = difflib.get_close_matches(head, names, n=1, cutoff=0.85)
    is_path = (
        '/' in head or os.path.exists(head) or head.lower().endswith(tuple(files.KINDS))
    )
    if is_path and not (near and files.on_hub(head)):
        return
    inside = '' if head == entry else f' in {entry!r}'
    known = ', '.join([*own, *adapters.ADAPTERS])
    raise rows.DataError(
        f'{_unknown(head, names)}{inside}: no file, no directory and no data set; '
        f'known data sets: {known}.'
    )


def _bad_proportion(entry: str, text: str) -> str:
    return (
        f'{text!r} in {entry!r} is no proportion; use a share such as 0.5 or 1/2, more '
        'than 1 for repeats, or 100/-1 for 100 rows.'
    )


def _unknown(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f'{name!r} is unknown' + (f', did you mean {near[0]!r}?' if near else '')


# ---- Columns ------------------------------------------------------------------------


def _is_part(part: str) -> bool:
    if part.startswith('harm.'):
        return part.endswith(('_0', '_1')) and len(part) > len('harm._0')
    return part in PARTS


def _check_columns(names: Mapping[str, str]) -> None:
    if 'prompt' not in names:
        raise rows.DataError('prompt names no column; add prompt=COLUMN.')
    for part in names:
        other = {'_0': '_1', '_1': '_0'}.get(part[-2:])
        if other and part[:-2] + other not in names:
            pair = part[:-2] + other
            raise rows.DataError(f'{part} needs its other; add {pair}=COLUMN.')
    of_pairs = [p for p in names if p in ('better', 'safer') or p.endswith('_0')]
    if of_pairs and 'response_0' not in names:
        raise rows.DataError(
            f'{of_pairs[0]} is of pairs; add response_0=COLUMN and response_1=COLUMN.'
        )
    if 'safe' in names and 'response' not in names:
        raise rows.DataError('safe is of a response; add response=COLUMN.')
