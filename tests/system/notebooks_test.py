"""The notebooks of colab/ run, and what is committed of them is as it should be."""

import os
import pathlib
import re

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / 'colab').glob('*.ipynb'))
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)

LARGEST = 300_000  # bytes
# A text that is a path from the root, a home or a drive.
ABSOLUTE = re.compile(r"""['"`](?:/[\w.-]+/|/(?:content|tmp)\b|~/|[A-Za-z]:\\)""")
# What warnings and tracebacks tell of the machine.
MACHINE = re.compile(r'/(?:home|root|tmp|usr|work|opt|Users|site-packages)/')


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def plots(notebook):
    return sum('image/png' in one.get('data', {}) for one in outputs(notebook))


def test_the_readme_links_every_notebook():
    text = (ROOT / 'README.md').read_text()
    assert len(NOTEBOOKS) == 4
    assert all(f'(colab/{path.name})' in text for path in NOTEBOOKS)


@each_notebook
def test_what_is_committed_shows_a_whole_run_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))  # from the top, each once
    assert not [one for one in outputs(notebook) if one.output_type == 'error']
    assert plots(notebook) >= 2
    assert path.stat().st_size < LARGEST


@each_notebook
def test_no_path_of_some_machine_is_committed(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert not ABSOLUTE.search(cell.source), cell.source
    for output in outputs(notebook):
        text = output.get('text', '') or str(output.get('data', {}).get('text/plain'))
        assert not MACHINE.search(text), text


@each_notebook
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    drawn = plots(notebook)
    client = nbclient.NotebookClient(
        notebook,
        timeout=900,
        kernel_name='python3',
        resources={'metadata': {'path': str(tmp_path)}},
    )
    one_device = '--xla_force_host_platform_device_count=1'
    environment = {
        'FAST': '1',
        'PYTHONPATH': str(ROOT),
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {one_device}',
    }
    client.execute(env=os.environ | environment)  # raises what a cell raises
    assert plots(notebook) == drawn
