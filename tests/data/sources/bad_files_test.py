"""Lines that are no rows, files that hold none, and what is said of them."""

import pytest

from beaver_jax.data import sources
from tests import micro


@pytest.mark.parametrize(
    ('line', 'reason', 'message'),
    [
        ('{"a": ', 'not_json', r"rows.jsonl:2: '\{\"a\":' is not JSON: .* column 6"),
        ('{"a": NaN]', 'not_json', r'rows.jsonl:2: .* is not JSON: .* column 10'),
        ('[' * 100_000, 'not_json', r'rows.jsonl:2: .* is not JSON: .*recursion'),
        ('9' * 5000, 'not_json', r'rows.jsonl:2: .* is not JSON: Exceeds'),
        ('[1, 2]', 'not_an_object', r'rows.jsonl:2: \[1, 2\] is not an object'),
        (
            b'{"a": "\xff"}',
            'not_utf8',
            r'rows.jsonl:2: byte 7 of the line is not UTF-8',
        ),
    ],
)
def test_a_line_that_is_no_row(write, line, reason, message):
    path = write({'prompt': 'One?'}, line, {'prompt': 'Two?'})
    with pytest.raises(sources.DataError, match=message):
        sources.prompts(path, on_bad_row='error')
    counts = sources.Counts()
    assert len(sources.prompts(path, counts=counts)) == 2
    assert counts == {'read': 3, 'kept': 2, reason: 1}


@pytest.mark.parametrize('on_bad_row', ['drop', 'error'])
@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('rows.jsonl', None, r"No file '.*rows.jsonl'; check the path"),
        ('rows.txt', 'a,b', r'rows.txt is of no known kind; use .jsonl'),
        ('rows.json', '{"a": 1}', r"rows.json holds \{'a': 1\}; it must hold a list"),
        ('rows.json', '{"a": 1}\n{"a": 2}', r'rows.json is not JSON .*name it .jsonl'),
        ('rows.json', '[1', r'rows.json is not JSON'),
        ('rows.json', b'["\xff"]', r'rows.json is not JSON .*utf-8'),
    ],
)
def test_a_file_that_holds_no_rows(tmp_path, name, text, message, on_bad_row):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(sources.DataError, match=message):
        sources.prompts(path, on_bad_row=on_bad_row)


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(sources.DataError, match='is a directory; name the'):
        sources.prompts(tmp_path)


def test_a_missing_file_is_found_before_others_are_read(write, tmp_path):
    counts = sources.Counts()
    paths = [write({'prompt': 'One?'}), tmp_path / 'missing.jsonl']
    with pytest.raises(sources.DataError, match=r'missing\.jsonl'):
        sources.prompts(paths, counts=counts)
    assert not counts


def test_nothing_usable_is_an_error_that_names_the_counts(write):
    path = write({'prompt': ''}, 'x', {'prompt': 3})
    message = r'rows\.jsonl \(read 3, empty_text 1, not_json 1, bad_field 1\)'
    counts = sources.Counts(read=10)  # of other files: not this one's
    with pytest.raises(sources.DataError, match=message):
        sources.prompts(path, counts=counts)
    with pytest.raises(sources.DataError, match=r'No row is wanted of no files'):
        sources.prompts([])


def test_each_source_must_give_something(tmp_path):
    good = micro.write_rows(tmp_path / 'good.jsonl', [{'prompt': 'a', 'response': 'b'}])
    bad = micro.write_rows(tmp_path / 'bad.jsonl', ['{', '[]'])
    message = (
        rf'No usable row in {bad} \(.*not_json 1.*\); name files that have some\. '
        rf'The first: {bad}:1: '
    )
    with pytest.raises(sources.DataError, match=message):
        sources.demonstrations([good, bad])


def test_the_first_row_of_each_problem_is_kept(tmp_path):
    rows = [{'prompt': 'a'}, '{', '[]', {'prompt': 3}, '}', {'prompt': ''}]
    file = micro.write_rows(tmp_path / 'rows.jsonl', rows)
    counts = sources.Counts()
    sources.prompts(file, counts=counts)
    lines = {'not_json': 2, 'not_an_object': 3, 'bad_field': 4, 'empty_text': 6}
    assert set(counts.problems) == set(lines)
    for reason, line in lines.items():
        assert counts.problems[reason].startswith(f'{file}:{line}: ')
