"""What the README shows in Python can be typed."""

import itertools
import pathlib
import textwrap

ROOT = pathlib.Path(__file__).parents[1]


def test_the_library_as_the_readme_uses_it(chain, configs, capsys):
    text = (ROOT / 'README.md').read_text().partition('## As a library')[2]
    lines = itertools.dropwhile(lambda x: 'import jax' not in x, text.splitlines())
    block = itertools.takewhile(lambda x: not x or x.startswith('    '), lines)
    source = textwrap.dedent('\n'.join(block))
    for shown, ours in (('configs/', f'{configs}/'), ('runs/tiny', str(chain))):
        assert shown in source
        source = source.replace(shown, ours)
    exec(compile(source, 'README.md', 'exec'), {})
    rows = [
        [float(x) for x in line.split()]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert len(rows) == 3
    # λ ← λ + 0.2·(C + 3), from 1 and at most 5, after every step.
    for (_, _, before), (_, cost, after) in itertools.pairwise([[0, 0, 1.0], *rows]):
        assert abs(after - min(max(before + 0.2 * (cost + 3), 0), 5)) < 1e-4
