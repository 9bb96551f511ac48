"""Reads compiled programs."""

import re

import numpy as np

INSTRUCTION = re.compile(r'%(\S+) = \(?\w+\[([\d,]*)\]\S* ([\w-]+)\(')
COMPUTATION = re.compile(r'^(?:ENTRY )?%(\S+) .*\{$')
CALLED = re.compile(r'(?:calls|to_apply|body|condition)=%([^\s,}]+)')


def instructions(lines):
    """(opcode, number of elements) of the instructions on lines of a program."""
    return [
        (found[3], int(np.prod([int(n) for n in found[2].split(',') if n])))
        for line in lines
        if (found := INSTRUCTION.search(line))
    ]


def in_loops(hlo):
    """The same of all instructions that run in a while loop."""
    lines, name = {}, None
    for line in hlo.splitlines():
        if opened := COMPUTATION.match(line):
            name = opened[1]
            lines[name] = []
        elif name:
            lines[name].append(line)
    queue = re.findall(r'body=%([^\s,}]+)', hlo)
    reached = set()
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue += CALLED.findall('\n'.join(lines[name]))
    return [one for name in reached for one in instructions(lines[name])]
