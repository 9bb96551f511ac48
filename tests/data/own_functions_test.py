"""Functions of one's own that make records of rows, and what they may do wrong."""

import pytest

from beaver_jax.data import records
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs

pytestmark = pytest.mark.usefixtures('here')


def _python(tmp_path, text, name='own.py'):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_public_functions_become_names(tmp_path):
    text = (
        'import json\nfrom json import dumps\nclass Some: pass\n'
        'def one(row): return _help(row)\ndef _help(row): return row\nx = 3\n'
    )
    found = specs.load(_python(tmp_path, text))
    assert list(found) == ['one']
    assert found['one']({'a': 1}) == {'a': 1}
    assert specs.load('') == {}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('def one(row:\n', r'own\.py:1: .*; correct the file'),
        ('1 / 0', r'own\.py cannot be run \(ZeroDivisionError: division by zero\)'),
        ('import no_such_module', r'cannot be run \(ModuleNotFoundError'),
        ('x = 1', r'own\.py has no public function; write one, row -> record'),
        ('def alpaca(row): pass', r'alpaca is the name of a data set; rename it'),
    ],
)
def test_a_file_of_functions_that_does_not_work(tmp_path, text, message):
    with pytest.raises(rows.DataError, match=message):
        specs.load(_python(tmp_path, text))


def test_a_file_of_functions_that_is_none(tmp_path):
    with pytest.raises(rows.DataError, match=r"No file 'no\.py'; name a Python file"):
        specs.load('no.py')
    with pytest.raises(rows.DataError, match=r'own\.txt is no Python file; its name'):
        specs.load(_python(tmp_path, 'def one(row): pass', 'own.txt'))


@pytest.mark.parametrize(
    ('body', 'reason', 'message'),
    [
        ("row['no']", 'adapter_error', r"adapter one failed \(KeyError: 'no'\)"),
        ("row['x'].strip(3, 4)", 'adapter_error', r'adapter one failed \(TypeError: '),
        ("int(row['x'])", 'adapter_error', r'adapter one failed \(ValueError: invali'),
        ("row['x'].no", 'adapter_error', r'adapter one failed \(AttributeError: '),
        ('3', 'adapter_error', r'its adapter returned 3; it must return a record'),
        ('records.Prompt(3)', 'bad_field', r"field 'prompt' is 3; it must be a string"),
        ("records.Prompt(('a', ''))", 'bad_field', r"'prompt' has 2 turns"),
        ("records.Prompt(('a', '', 'b'))", 'empty_text', r"'prompt\[1\]' is ''; it mu"),
    ],
)
def test_a_function_that_fails_on_a_row(tmp_path, body, reason, message):
    text = (
        'from beaver_jax.data import records\n'
        f"def one(row): return {body} if row['x'] else records.Prompt('a')\n"
    )
    own = specs.load(_python(tmp_path, text))
    (tmp_path / 'x.jsonl').write_text('{"x": ""}\n{"x": "y"}\n')
    entries = specs.parse('one:1:x.jsonl', own)
    with pytest.raises(rows.BadRowError, match=rf'^x\.jsonl:2: .*{message}'):
        sources.prompts(entries, on_bad_row='error')
    counts = sources.Counts()
    assert len(sources.prompts(entries, counts=counts)) == 1
    assert counts == {'read': 2, 'kept': 1, reason: 1}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ("responses=('a',), better=0", r"responses is \('a',\); it must be of two"),
        ("responses='ab', better=0", r"responses is 'ab'; it must be of two"),
        ('responses=None, better=0', r'responses is None; it must be of two'),
        ("responses=('a', 'b'), better=2", r"'better' is 2; it must be 0 or 1"),
        ("responses=('a', 'b'), better=True", r"'better' is True; it must be 0 or 1"),
        ("responses=('a', 'b'), better=0, safer=5", r"'safer' is 5; it must be 0 or 1"),
        (
            "responses=('a', 'b'), better=0, safe=True",
            r'safe is True; it must be of tw',
        ),
        (
            "responses=('a', 'b'), better=0, safe=(1, 0)",
            r"'safe\[0\]' is 1; it must be",
        ),
        (
            "responses=('a', 'b'), better=0, severity=(1,)",
            r'severity is \(1,\); it mus',
        ),
        (
            "responses=('a', 'b'), better=0, harms={'x': 1}",
            r"harms are \{'x': 1\}; the",
        ),
        (
            "responses=('a', 'b'), better=0, harms=3",
            r'harms are 3; they must be two bo',
        ),
        (
            "responses=('a', 'a'), better=0",
            r'responses\[0\] and responses\[1\] are both',
        ),
        ("responses=('a', 'b')", r'which of its responses is better is not known'),
    ],
)
def test_a_pair_that_is_none(tmp_path, fields, message):
    text = (
        'from beaver_jax.data import records\n'
        f"def one(row): return records.Comparison('q', {fields})\n"
    )
    entries = specs.parse('one:1:rows.jsonl', specs.load(_python(tmp_path, text)))
    with pytest.raises(rows.BadRowError, match=rf'^rows\.jsonl:1: .*{message}'):
        sources.comparisons(entries, need='better', on_bad_row='error')


def test_a_function_may_leave_rows_out(tmp_path):
    text = (
        'from beaver_jax.data import records\n'
        "def one(row): return records.Prompt(row['x']) if row['x'] else None\n"
    )
    own = specs.load(_python(tmp_path, text))
    (tmp_path / 'x.jsonl').write_text('{"x": ""}\n{"x": "y"}\n')
    counts = sources.Counts()
    found = sources.prompts(
        specs.parse('one:1:x.jsonl', own), on_bad_row='error', counts=counts
    )
    assert found == [records.Prompt(('y',), 'x.jsonl:2')]
    assert counts == {'read': 2, 'kept': 1, 'left_out': 1}
