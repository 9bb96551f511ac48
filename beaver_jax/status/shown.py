"""What is known of a run, as lines for people."""

from collections.abc import Iterator, Sequence
import math

from beaver_jax import status
from beaver_jax import terminal

_UNITS = ((86400, 'd'), (3600, 'h'), (60, 'min'), (1, 's'))
_SIZES = ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB'))


def text(stages: Sequence[status.Stage], now: float) -> str:
    """A paragraph a stage."""
    return '\n'.join(line for one in stages for line in _stage(one, now))


def _stage(one: status.Stage, now: float) -> Iterator[str]:
    of = f' of {one.steps:,}' if one.steps is not None else ''
    parts = [f'{one.name}: {one.state}', f'step {one.step:,}{of}' if one.step else '']
    if one.seconds_per_step:
        parts.append(_rate(one.seconds_per_step))
    if one.tokens_per_second is not None:
        parts.append(f'{one.tokens_per_second:,.0f} tokens/s')
    if one.seconds_left is not None:
        parts.append(f'{duration(one.seconds_left)} left')
    if one.state != status.DONE:
        parts.append(f'last sign {ago(one.since, now)}')
    yield ' · '.join(filter(None, parts))
    if one.metrics:
        yield '  ' + ' · '.join(
            f'{name} {terminal.number(value)}' for name, value in one.metrics.items()
        )
    if one.checkpoints:
        yield '  checkpoints: ' + ', '.join(
            f'{saved.step:,} ({size(saved.bytes)}, {ago(saved.time, now)})'
            for saved in one.checkpoints
        )
    if one.state != status.DONE:
        for beat in one.processes:
            yield (
                f'  {beat.name}: {beat.doing} for {duration(now - beat.since)}, heard '
                f'of {ago(beat.time, now)}'
            )
    yield from (f'  ! {text}' for text in one.concerns.values())


def _rate(seconds: float) -> str:
    if seconds >= 1:
        return f'{seconds:.2f} s/step'
    return f'{1 / seconds:.2f} steps/s'


def duration(seconds: float) -> str:
    """In its two largest units: '45 s', '3 min', '2 h 5 min', '1 d 3 h'."""
    left = max(0, math.floor(seconds))
    found: list[str] = []
    for size_of, name in _UNITS:
        count, left = divmod(left, size_of)
        if count or (found and name != 's'):
            found.append(f'{count} {name}')
    return ' '.join(part for part in found[:2] if not part.startswith('0 ')) or '0 s'


def ago(then: float, now: float) -> str:
    """How long a Unix time is past."""
    return f'{duration(now - then)} ago'


def size(count: float) -> str:
    """Bytes as '1.2 GB', '35 MB', '12 B'."""
    for unit, name in _SIZES:
        if count >= unit:
            return f'{count / unit:.1f} {name}'
    return f'{count:.0f} B'
