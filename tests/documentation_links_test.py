"""Links of the pages lead somewhere, and what the reference names exists."""

import pathlib
import re

import pytest

from tests import documentation

ROOT = documentation.ROOT


@pytest.mark.parametrize('page', documentation.PAGES, ids=documentation.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    links = [target for _, target in re.findall(r'(\[[^]]*\])\(([^)\s]+)\)', text)]
    links += re.findall(r'--8<-- "(.*)"', text)
    for link in links:
        path = link.partition('#')[0]
        if path and not link.startswith('https://'):
            parent = ROOT if '--8<--' in text else page.parent
            assert (parent / path).exists(), link


def test_tests_that_are_named_exist():
    named = {
        name
        for page in documentation.PAGES
        for name in re.findall(r'tests/[\w/]+\.py(?:::\w+)?', page.read_text())
    }
    assert len(named) > 50
    for name in named:
        file, _, function = name.partition('::')
        path = ROOT / file
        assert path.is_file(), name
        assert not function or f'def {function}(' in path.read_text(), name


def test_modules_of_the_reference_exist():
    named = [
        name
        for page in (ROOT / 'docs' / 'reference').glob('*.md')
        for name in re.findall(r'^::: (\S+)$', page.read_text(), re.M)
    ]
    assert len(named) > 20
    for name in named:
        path = pathlib.Path(ROOT, *name.split('.'))
        assert path.is_dir() or path.with_suffix('.py').is_file(), name
