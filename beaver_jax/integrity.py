"""What tells that a checkpoint is what was saved, and is of this run."""

from collections.abc import Mapping
import hashlib
import json
import pathlib
from typing import Any

import jax
from orbax.checkpoint.experimental import v1 as ocp

UNREADABLE = 'its metadata cannot be read'


def unlisted(directory: pathlib.Path) -> list[int]:
    """Steps of checkpoints whose metadata keep Orbax from opening the directory."""
    found = []
    for path in directory.iterdir():
        if path.name.isdecimal():
            try:
                ocp.checkpointables_metadata(path)
            except Exception:  # whatever a broken file may lead to
                found.append(int(path.name))
    return sorted(found)


def metadata(checkpointer: Any, step: int) -> Any:
    """What is known of a checkpoint.

    Raises:
      ValueError: It is cut short: Orbax then knows of nothing, and does not complain;
        or it is not what was saved.
    """
    found = checkpointer.metadata(step)
    if not found.metadata or not found.custom_metadata:
        raise ValueError(UNREADABLE)
    now = digest(found.custom_metadata, shapes(found.metadata))
    if found.custom_metadata.get('digest', now) != now:
        raise ValueError('its metadata is not what was saved')
    return found


def digest(notes: Mapping[str, Any], arrays: Mapping[str, tuple[int, ...]]) -> str:
    """Of all that is stored beside arrays, as a file of JSON gives it back.

    Args:
      notes: What goes with a checkpoint; an older digest in it is left out.
      arrays: Their shapes by name.
    """
    said = {key: value for key, value in notes.items() if key != 'digest'}
    text = json.dumps([said, arrays], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def broken(directory: pathlib.Path, step: int, problem: str) -> str:
    """What is said of a checkpoint that is not used; '' if another process finds so."""
    return (
        f'{directory}: the checkpoint of step {step} is broken and not used '
        f'({problem or "as another process finds"})'
    )


def first_line(error: Exception) -> str:
    """Of what an error says, without the rest."""
    lines = str(error).splitlines() or ['']
    return f'{type(error).__name__}: {lines[0][:200]}'


def differences(
    want: Mapping[str, tuple[int, ...]], have: Mapping[str, tuple[int, ...]]
) -> str:
    """Compares names and shapes, as Orbax would say less of what differs."""
    wrong = [
        f'{name} is {have[name]}, not {want[name]}'
        for name in sorted(want.keys() & have.keys())
        if have[name] != want[name]
    ]
    return '; '.join(
        f'{what}: {", ".join(found[:6])}{" …" if found[6:] else ""}'
        for what, found in (
            ('missing', sorted(want.keys() - have.keys())),
            ('left over', sorted(have.keys() - want.keys())),
            ('wrong shape', wrong),
        )
        if found
    )


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Of a tree's leaves, by their paths."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
        for path, leaf in flat
    }
