"""What devices send each other in a compiled program, read from its text.

The program is one for all devices. Loops whose trips XLA knows count as often as they
run; of branches each counts once.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import re

import numpy as np

# Of what a device ends up with, over n devices in a ring, so much is sent by each.
_SENT = {
    'all-gather': lambda size, n: size * (n - 1) / n,
    'reduce-scatter': lambda size, n: size * (n - 1),
    'all-reduce': lambda size, n: 2 * size * (n - 1) / n,
    'all-to-all': lambda size, n: size * (n - 1) / n,
    'collective-permute': lambda size, n: size,
}
KINDS = tuple(_SENT)

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'f8e4m3fn': 1, 'f8e5m2': 1} | {
    f'{kind}{bits}': bits // 8
    for bits in (16, 32, 64)
    for kind in ('s', 'u', 'f', 'bf')
}
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.-]+) (?:\(.*)?\{$')
_CALL = re.compile(r' = (.*?) ([a-z][\w-]*)\(')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_TRIPS = re.compile(r'known_trip_count"?[:=] ?\{"?n"?[:=] ?"?(\d+)')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|true_computation|false_computation)'
    r'=%?([\w.-]+)'
    r'|branch_computations=\{([^}]*)\}'
)
_NUMBER = re.compile(r' = [su]32\[\]\S* constant\((\d+)\)')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_LISTED = re.compile(r'replica_groups=\{\{([\d,]+)\}')
_NAMED = re.compile(
    r'replica_groups=mesh\[([^\]]*)\]'
    r'(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}'
)
_SUB_AXIS = re.compile(r"'([\w.-]+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r'source_target_pairs=\{(.*?)\}\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, as often as it runs.

    Attributes:
      kind: One of KINDS.
      axes: Of the mesh, along which devices exchange.
      sent: Bytes that a device sends in all runs, in a ring.
      times: How often it runs.
    """

    kind: str
    axes: tuple[str, ...]
    sent: float
    times: int


class UnknownTrips(ValueError):
    """A loop with collectives in it of which XLA does not say how often it runs."""


def read(
    hlo: str, mesh: Mapping[str, int], at_most: int | None = None
) -> list[Collective]:
    """Collectives of a compiled program.

    Args:
      hlo: `compiled.as_text()`.
      mesh: Sizes of its axes, in order; devices are numbered along them.
      at_most: Trips of loops that end by what they compute, as a rollout's does.

    Raises:
      UnknownTrips: There is such a loop, and no `at_most`.
    """
    computations, entry = _computations(hlo)
    return list(_walk(computations, entry, 1, dict(mesh), at_most))


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    name = entry = ''
    for line in hlo.splitlines():
        opened = _COMPUTATION.match(line)
        if opened:
            name = opened[1]
            found[name] = []
            entry = name if line.startswith('ENTRY') else entry
        elif name:
            found[name].append(line)
    return found, entry


def _walk(
    computations: Mapping[str, Sequence[str]],
    name: str,
    times: int,
    mesh: dict[str, int],
    at_most: int | None,
) -> Iterator[Collective]:
    for line in computations[name]:
        call = _CALL.search(line)
        if call is None:
            continue
        kind = call[2].removesuffix('-start')
        if kind in _SENT:
            yield _collective(kind, call, line, times, mesh)
            continue
        trips: int | None = 1
        if call[2] == 'while':
            trips = _trips(computations, line) or at_most
        for one, several in _CALLED.findall(line):
            for called in [one] if one else re.findall(r'[\w.-]+', several):
                inner = times * (trips or 1)
                below = list(_walk(computations, called, inner, mesh, at_most))
                if below and trips is None:
                    raise UnknownTrips(f'{name}: {line.strip()[:200]}')
                fused = called.startswith('all-reduce-scatter')
                yield from map(_scattered, below) if fused else below


def _scattered(one: Collective) -> Collective:
    """An all-reduce of which each device keeps a part, one operation on TPUs."""
    return dataclasses.replace(one, kind='reduce-scatter', sent=one.sent / 2)


def _trips(computations: Mapping[str, Sequence[str]], line: str) -> int | None:
    """How often a loop runs: XLA's word, or its counter's end by its step.

    Loops of `scan` and of collective matmuls count up from 0.
    """
    if known := _TRIPS.search(line):
        return int(known[1])
    found = re.search(r'condition=%?([\w.-]+)', line)
    called = re.search(r'body=%?([\w.-]+)', line)
    if found is None or called is None:
        return None
    condition, body = (_defined(computations[x[1]]) for x in (found, called))
    compared = _operands(condition['ROOT'], 'compare')
    if len(compared) != 2 or 'direction=LT' not in condition['ROOT']:
        return None
    counter = re.search(r'index=(\d+)', condition.get(compared[0], ''))
    end = _NUMBER.search(condition.get(compared[1], ''))
    if counter is None or end is None:
        return None
    ends = _operands(body['ROOT'], 'tuple')
    added = _operands(body.get(ends[int(counter[1])], ''), 'add')
    steps = [n for x in added if (n := _NUMBER.search(body.get(x, '')))]
    return -(-int(end[1]) // int(steps[0][1])) if len(steps) == 1 else None


def _defined(lines: Sequence[str]) -> dict[str, str]:
    """Lines by the name that they define, and that of the result as ROOT."""
    found = {}
    for line in lines:
        if named := re.match(r'\s*(ROOT )?%?([\w.-]+) = ', line):
            found[named[2]] = line
            if named[1]:
                found['ROOT'] = line
    return found


def _operands(line: str, kind: str) -> list[str]:
    called = re.search(rf' {kind}\((.*?)\)', line)
    return re.findall(r'%([\w.-]+)', called[1]) if called else []


def _collective(
    kind: str, call: re.Match[str], line: str, times: int, mesh: dict[str, int]
) -> Collective:
    sizes = [
        math.prod(int(n) for n in dims.split(',') if n) * _BYTES[dtype]
        for dtype, dims in _ARRAY.findall(call[1])
    ]
    if kind == 'collective-permute':  # when begun: operand, result, and more
        sizes = sizes[1:2] if call[2] != kind else sizes
    elif call[2] != kind and kind != 'all-reduce':  # operands, then results
        sizes = sizes[len(sizes) // 2 :]
    group = _group(line, math.prod(mesh.values()))
    places = np.array(np.unravel_index(group, tuple(mesh.values())))
    axes = tuple(
        axis for axis, place in zip(mesh, places, strict=True) if len(set(place)) > 1
    )
    sent = _SENT[kind](sum(sizes), len(group)) if len(group) > 1 else 0.0
    return Collective(kind, axes, times * sent, times)


def _group(line: str, devices: int) -> list[int]:
    """Numbers of the devices that exchange with the first of them."""
    if pairs := _PAIRS.search(line):
        moves = [
            [int(n) for n in pair.split(',')]
            for pair in re.findall(r'\d+,\d+', pairs[1])
        ]
        return next((move for move in moves if move[0] != move[1]), moves[0][:1])
    if named := _NAMED.search(line):
        return _named_group(*named.groups())
    if iota := _IOTA.search(line):
        shape, source, order = iota.groups()
        return _numbered(source, order).reshape(_integers(shape))[0].tolist()
    if listed := _LISTED.search(line):
        return _integers(listed[1])
    if 'replica_groups={}' in line:
        return list(range(devices))
    raise ValueError(f'unknown devices: {line.strip()[:200]}')


def _integers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(',')] if text else []


def _numbered(shape: str, order: str | None) -> np.ndarray:
    """0, 1, … in this shape, its axes in that order."""
    sizes = _integers(shape)
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose(_integers(order)) if order else grid


def _named_group(mesh: str, shape: str, order: str, axes: str) -> list[int]:
    """The first group of mesh['a'=4,'b'=2] {'a':(1)2}: half of a, all else at 0."""
    sizes = {name: int(size) for name, size in re.findall(r"'([\w.-]+)'=(\d+)", mesh)}
    strides, stride = {}, 1
    for name in reversed(sizes):
        strides[name] = stride
        stride *= sizes[name]
    places = np.zeros(1, int)
    for name, before, size in _SUB_AXIS.findall(axes):
        count = int(size or sizes[name])
        step = strides[name] * sizes[name] // (int(before or 1) * count)
        places = np.add.outer(places, np.arange(count) * step).ravel()
    devices = _numbered(shape or str(stride), order).ravel()
    return devices[places].tolist()
