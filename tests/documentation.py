"""What the pages show: command lines in blocks, and what stands in `code`."""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
import shlex
import string
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / 'README.md',
        ROOT / 'CONTRIBUTING.md',
        ROOT / 'launch' / 'README.md',
        *(ROOT / 'docs').rglob('*.md'),
    ]
)
_ASSIGNMENT = re.compile(r'[A-Za-z_]\w*=')
_PYTHON = re.compile(r'(\.venv/bin/)?python3?(\.\d+)?')
_FENCED = re.compile(r'^ *```.*?^ *```$', re.MULTILINE | re.DOTALL)
_CODE = re.compile(r'`([^`\n]+)`')
# Programs of others, whose options are their own.
_OTHERS = ('gcloud', 'hf', 'kubectl', 'ruff', 'xpk')
_HEREDOC = re.compile(r"<<'?(\w+)'?")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of ours.

    Attributes:
      page: Where it stands, from the root of the repository.
      program: A module, `launch/*.py`, 'make', 'pip', or '' for options alone.
      arguments: What follows.
    """

    page: str
    program: str
    arguments: tuple[str, ...]

    def __str__(self):
        return f'{self.page}: {self.program} {shlex.join(self.arguments)}'


def name(page: pathlib.Path) -> str:
    """A page's path from the root."""
    return str(page.relative_to(ROOT))


def commands(page: pathlib.Path) -> Iterator[Command]:
    """Our command lines in a page's blocks; those of other programs are left out."""
    variables: dict[str, str] = {}
    for block in blocks(page.read_text()):
        for line in logical_lines(block):
            filled = string.Template(line).safe_substitute(variables)
            for words in simple_commands(filled):
                assigned = [word for word in words if _ASSIGNMENT.match(word)]
                if assigned == words:
                    variables |= dict(word.split('=', 1) for word in words)
                    continue
                yield from of_words(name(page), words)


def blocks(text: str) -> Iterator[str]:
    """Fenced and indented blocks, also those of lists."""
    for fenced in _FENCED.findall(text):
        yield textwrap.dedent(fenced.strip().partition('\n')[2])
    lines: list[str] = []
    for line in [*_FENCED.sub('', text).splitlines(), 'end']:
        if line.startswith('    '):
            lines.append(line)
        elif line and lines:
            yield textwrap.dedent('\n'.join(lines))
            lines = []


def logical_lines(block: str) -> Iterator[str]:
    """Lines of a shell: continued ones are one, and what is fed to them is left out."""
    lines = iter(block.replace('\\\n', ' ').splitlines())
    for line in lines:
        yield line
        if fed := _HEREDOC.search(line):
            for line in lines:
                if line == fed[1]:
                    break


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without '…'; none if it is no shell."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of prose or of Python, with one quotation mark
        if 'python -m' in line:
            raise
        return
    found: list[str] = []
    for word in [*words, '&&']:
        if word == '&&':
            if found:
                yield found
            found = []
        elif word != '…':
            found.append(word)


def of_words(page: str, words: list[str]) -> Iterator[Command]:
    """What of ours these words run, variables before them left out."""
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    match words:
        case [python, '-m', module, *rest] if _PYTHON.fullmatch(python):
            if module.startswith(('beaver_jax', 'benchmarks')):
                yield Command(page, module, tuple(rest))
        case [python, script, *rest] if _PYTHON.fullmatch(python) and script.startswith(
            'launch/'
        ):
            yield Command(page, script, tuple(rest))
        case ['sbatch', *rest]:
            script = rest.index('launch/slurm.sbatch')
            yield Command(page, 'beaver_jax.train', tuple(rest[script + 1 :]))
        case ['make', *rest]:
            yield Command(page, 'make', tuple(rest))
        case [pip, *rest] if pip.rpartition('/')[2] == 'pip':
            yield Command(page, 'pip', tuple(rest))
        case [option, *_] if option.startswith('--'):
            yield Command(page, '', tuple(words))
        case _:
            for word in words:  # of a launcher that is told a command
                if word.startswith('--command='):
                    told = shlex.split(word.partition('=')[2])
                    yield from of_words(page, told)


def codes(page: pathlib.Path) -> list[str]:
    """What stands in `code` outside of blocks."""
    text = _FENCED.sub('', page.read_text())
    lines = [line for line in text.splitlines() if not line.startswith('    ')]
    return _CODE.findall('\n'.join(lines))


def words(page: pathlib.Path) -> list[str]:
    """The words of `code`, but the commands of others, and of options in blocks."""
    ours = [code.split() for code in codes(page) if not code.startswith(_OTHERS)]
    options = [one.arguments for one in commands(page) if not one.program]
    return [word for group in (*ours, *options) for word in group]


def inline(page: pathlib.Path) -> Iterator[Command]:
    """Commands that stand in `code`, which need not be whole."""
    for code in codes(page):
        for found in simple_commands(code):
            yield from of_words(name(page), found)


def line(page: str, begins: str) -> str:
    """The one line of a page that begins so."""
    found = [
        text.strip()
        for text in (ROOT / page).read_text().splitlines()
        if text.strip().startswith(begins)
    ]
    assert len(found) == 1, f'{page}: {len(found)} lines begin with {begins!r}'
    return found[0]
