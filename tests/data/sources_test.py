"""Records from good files, and what is said of bad ones."""

import json

import pytest

from beaver_jax.data import sources
from beaver_jax.data import store
from tests import micro

PAIR = {
    'prompt': 'Which way?',
    'response_0': 'Left.',
    'response_1': 'Right.',
    'better_response_id': 1,
    'safer_response_id': 0,
    'is_response_0_safe': True,
    'is_response_1_safe': False,
}


def _without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


@pytest.fixture
def write(tmp_path):
    """Writes rows (objects, or raw text and bytes) as lines of a file."""

    def write(*lines, name='rows.jsonl'):
        path = tmp_path / name
        with path.open('wb') as file:
            for line in lines:
                if not isinstance(line, str | bytes):
                    line = json.dumps(line)
                file.write(line.encode() if isinstance(line, str) else line)
                file.write(b'\n')
        return path

    return write


# Files.


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


# Demonstrations.


def test_demonstrations_of_several_files(write):
    first = write({'prompt': 'Why?', 'response': 'So.', 'id': 7})
    second = write('[{"prompt": "Who?", "response": " I. "}]', name='more.json')
    assert sources.demonstrations([first, str(second)]) == [
        sources.Demonstration(('Why?',), 'So.', f'{first}:1'),
        sources.Demonstration(('Who?',), ' I. ', f'{second}, row 0 (from 0)'),
    ]


def test_alpaca_rows(write):
    path = write(
        {'instruction': 'Add.', 'input': '1 and 2', 'output': '3'},
        {'instruction': 'Sing.', 'input': '', 'output': 'La.'},
        {'instruction': 'Hum.', 'output': 'Hm.'},
    )
    found = sources.demonstrations(path)
    assert [record.prompt for record in found] == [
        ('Add. 1 and 2',),
        ('Sing.',),
        ('Hum.',),
    ]
    assert [record.response for record in found] == ['3', 'La.', 'Hm.']


def test_dialogues(write):
    path = write({'prompt': ['Hi', 'Hello.', 'Why?'], 'response': 'So.'})
    assert sources.demonstrations(path)[0].prompt == ('Hi', 'Hello.', 'Why?')


@pytest.mark.parametrize(
    ('row', 'reason', 'message'),
    [
        (
            {'prompt': 'a'},
            'bad_field',
            r"rows.jsonl:1: there is no field 'response' or 'output'; the row has 'pro",
        ),
        ({}, 'bad_field', r'the row has none'),
        ({'response': 'b'}, 'bad_field', r"no field 'prompt' or 'instruction'"),
        (
            {'prompt': 'a', 'response': 5},
            'bad_field',
            r"rows.jsonl:1: field 'response' is 5; it must be a string",
        ),
        ({'prompt': None, 'response': 'b'}, 'bad_field', r"'prompt' is None; it must"),
        (
            {'prompt': ' \n', 'response': 'b'},
            'empty_text',
            r"'prompt' is ' \\n'; .*emp",
        ),
        ({'prompt': 'a', 'response': ''}, 'empty_text', r"'response' is ''; it must"),
        ({'prompt': ['a', 'b'], 'response': 'c'}, 'bad_field', r"'prompt' has 2 turns"),
        ({'prompt': [], 'response': 'c'}, 'bad_field', r"'prompt' has 0 turns"),
        (
            {'prompt': ['a', '', 'c'], 'response': 'd'},
            'empty_text',
            r"'prompt\[1\]' is ''; it must not be empty",
        ),
        (
            {'instruction': 'a', 'input': 4, 'output': 'b'},
            'bad_field',
            r"'input' is 4; it must be a string",
        ),
        (
            {'prompt': 'a', 'response': '\ud800'},
            'bad_field',
            r"'response' is '\\ud800', with half of a surrogate",
        ),
    ],
)
def test_a_bad_demonstration(write, row, reason, message):
    path = write(row, {'prompt': 'a', 'response': 'b'})
    with pytest.raises(sources.DataError, match=message) as info:
        sources.demonstrations(path, on_bad_row='error')
    assert "set on_bad_row='drop'" in str(info.value)
    counts = sources.Counts()
    assert len(sources.demonstrations(path, counts=counts)) == 1
    assert counts == {'read': 2, 'kept': 1, reason: 1}


def test_long_values_are_shown_short(write):
    path = write({'prompt': ['x' * 10_000], 'response': ['y' * 10_000]})
    with pytest.raises(sources.DataError) as info:
        sources.demonstrations(path, on_bad_row='error')
    assert len(str(info.value)) < 300


# Comparisons.


def test_comparison_with_all_labels(write):
    path = write(PAIR | {'prompt_source': 'x', 'response_0_severity_level': 2})
    for need in ('better', 'safer'):
        assert sources.comparisons(path, need=need) == [
            sources.Comparison(
                prompt=('Which way?',),
                responses=('Left.', 'Right.'),
                better=1,
                safer=0,
                safe=(True, False),
                where=f'{path}:1',
            )
        ]


def test_only_the_needed_labels_are_required(write):
    path = write(_without(PAIR, 'better_response_id') | {'safer_response_id': 1.0})
    with pytest.raises(sources.DataError, match="'better_response_id' is missing"):
        sources.comparisons(path, need='better', on_bad_row='error')
    path = write(PAIR | {'safer_response_id': None, 'is_response_1_safe': 'no'})
    (pair,) = sources.comparisons(path, need='better', on_bad_row='error')
    assert (pair.better, pair.safer, pair.safe) == (1, None, (True, None))


@pytest.mark.parametrize('value', [2, -1, '0', True, 1.0, None, [0]])
@pytest.mark.parametrize('need', ['better', 'safer'])
def test_a_preference_is_0_or_1(write, need, value):
    path = write(PAIR | {f'{need}_response_id': value})
    message = rf"rows\.jsonl:1: field '{need}_response_id' is .*; it must be 0 or 1"
    with pytest.raises(sources.DataError, match=message):
        sources.comparisons(path, need=need, on_bad_row='error')


@pytest.mark.parametrize('value', [0, 1, 'true', None])
def test_a_safety_label_is_a_bool(write, value):
    path = write(PAIR | {'is_response_1_safe': value})
    message = r"'is_response_1_safe' is .*; it must be true or false"
    with pytest.raises(sources.DataError, match=message):
        sources.comparisons(path, need='safer', on_bad_row='error')


def test_bad_pairs_are_counted(write):
    path = write(
        PAIR,
        PAIR | {'response_1': 'Left.'},
        PAIR | {'response_0': ' '},
        _without(PAIR, 'response_1'),
        PAIR | {'prompt': ''},
    )
    counts = sources.Counts()
    assert len(sources.comparisons(path, need='better', counts=counts)) == 1
    assert counts == {
        'read': 5,
        'kept': 1,
        'identical_responses': 1,
        'empty_text': 2,
        'bad_field': 1,
    }
    with pytest.raises(sources.DataError, match=r":2: .* are both 'Left\.'"):
        sources.comparisons(path, need='better', on_bad_row='error')


# The safer response is the second, but it is the first that is labelled safe.
CONTRADICTION = PAIR | {'safer_response_id': 1}


def test_contradictions_dropped(write):
    counts = sources.Counts()
    found = sources.comparisons(write(PAIR, CONTRADICTION), need='safer', counts=counts)
    assert [pair.safer for pair in found] == [0]
    assert counts == {'read': 2, 'kept': 1, 'contradictory_safety': 1}


def test_contradictions_keep_their_ranking(write):
    counts = sources.Counts()
    (pair,) = sources.comparisons(
        write(CONTRADICTION), need='safer', contradictions='keep_ranking', counts=counts
    )
    assert (pair.safer, pair.safe) == (1, (None, None))
    assert counts == {'read': 1, 'kept': 1, 'contradictory_safety': 1}


def test_contradictions_as_errors(write):
    path = write(PAIR, CONTRADICTION)
    message = r':2: safer_response_id is 1, but .* are True and False\. Correct'
    with pytest.raises(sources.DataError, match=message):
        sources.comparisons(path, need='safer', contradictions='error')


@pytest.mark.parametrize('safe', [(True, True), (False, False), (True, False)])
def test_other_labels_are_no_contradiction(write, safe):
    row = PAIR | {'is_response_0_safe': safe[0], 'is_response_1_safe': safe[1]}
    (pair,) = sources.comparisons(write(row), need='safer', contradictions='error')
    assert pair.safe == safe


def test_contradictions_do_not_matter_to_helpfulness(write):
    counts = sources.Counts()
    (pair,) = sources.comparisons(
        write(CONTRADICTION), need='better', contradictions='error', counts=counts
    )
    assert pair.better == 1
    assert counts == {'read': 1, 'kept': 1}


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'need': 'best'}, "need='best' is unknown; use better or safer"),
        ({'on_bad_row': 'skip'}, "on_bad_row='skip' is unknown; use drop or error"),
        ({'contradictions': 'keep'}, "contradictions='keep' is unknown; use drop or k"),
    ],
)
def test_unknown_policies(write, option, message):
    with pytest.raises(ValueError, match=message):
        sources.comparisons(write(PAIR), **{'need': 'safer', **option})


# Prompts and splits.


def test_prompts_keep_the_first_of_duplicates(write):
    path = write(
        {'prompt': 'One?'}, PAIR, {'prompt': ['One?']}, {'instruction': 'One?'}
    )
    counts = sources.Counts()
    assert sources.prompts(path, counts=counts) == [
        sources.Prompt(('One?',), f'{path}:1'),
        sources.Prompt(('Which way?',), f'{path}:2'),
    ]
    assert counts == {'read': 4, 'kept': 2, 'duplicate_prompt': 2}


def _prompts(size):
    return [sources.Prompt((f'Question {i}?',), f'x:{i}') for i in range(size)]


def test_held_out_keeps_a_prompt_on_one_side():
    train, test = sources.held_out(store.collect(_prompts(500) * 2), 0.2, seed=0)
    assert len(train) + len(test) == 1000
    assert not set(train) & set(test)
    # Binomial with n = 500 and p = 0.2: mean 100, deviation 9; times two rows each.
    assert 2 * 73 < len(test) < 2 * 127


def test_held_out_does_not_depend_on_the_other_records():
    some, many = (store.collect(_prompts(count)) for count in (100, 300))
    _, test = sources.held_out(some, 0.3, seed=1)
    _, more = sources.held_out(many.take(range(300)[::-1]), 0.3, seed=1)
    assert set(test) == set(more) & set(some)
    assert set(test) != set(sources.held_out(some, 0.3, seed=2)[1])


def test_held_out_bounds():
    records = store.collect(_prompts(20))
    assert sources.held_out(records, 0, seed=0) == (records, [])
    for fraction in (-0.1, 1, float('nan')):
        with pytest.raises(ValueError, match=f'test_share={fraction} is not a share'):
            sources.held_out(records, fraction, seed=0)
    with pytest.raises(sources.DataError, match='20 to train on and 0 held out'):
        sources.held_out(records, 1e-9, seed=0)


# Real files.


@pytest.mark.parametrize(
    ('file', 'need', 'size'),
    [
        ('pku_saferlhf/train.jsonl', 'better', 100),
        ('pku_saferlhf/train.jsonl', 'safer', 100),
        ('pku_saferlhf/train.7field.jsonl', 'safer', 100),
        ('pku_saferlhf_mixed/mixed5k.sample2000.jsonl', 'safer', 2000),
        ('helpsteer_pairs/helpfulness_preference_test.jsonl', 'better', 1045),
    ],
)
def test_real_comparisons(shared_data, file, need, size):
    found = sources.comparisons(
        shared_data / file, need=need, on_bad_row='error', contradictions='error'
    )
    assert len(found) == size


@pytest.mark.parametrize(
    ('file', 'size'),
    [
        ('pku_saferlhf_mixed/pku_safe_sft.json', 5188),
        ('alpaca_sft/alpaca_en_demo.json', 999),
    ],
)
def test_real_demonstrations(shared_data, file, size):
    found = sources.demonstrations(shared_data / file, on_bad_row='error')
    assert len(found) == size


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


def test_of_a_pair_no_unsafe_response_is_learnt(tmp_path):
    row = {
        'prompt': 'a',
        'response_0': 'b',
        'response_1': 'c',
        'better_response_id': 0,
        'safer_response_id': 1,
        'is_response_0_safe': False,
        'is_response_1_safe': True,
    }
    safe = row | {'better_response_id': 1}
    file = micro.write_rows(tmp_path / 'x.jsonl', [row, safe])
    counts = sources.Counts()
    found = sources.demonstrations(file, on_bad_row='error', counts=counts)
    assert [record.response for record in found] == ['c']
    assert counts['unsafe_response'] == 1
