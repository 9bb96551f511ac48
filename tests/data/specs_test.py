"""What entries of config.data mean."""

import json

import numpy as np
import pytest

from beaver_jax.data import adapters
from beaver_jax.data import records
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs

Proportion = specs.Proportion
SEED = np.random.SeedSequence(0)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder to name files in without colons of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ('rows.jsonl', 'odd:name.jsonl', 'odd:0.5', 'alpaca:0.5:x.jsonl'):
        (tmp_path / name).write_text('{"prompt": "a"}\n')
    (tmp_path / 'alpaca' / 'rows').mkdir(parents=True)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'a.jsonl').write_text('{"prompt": "a"}\n')


def own(row):
    return records.Prompt(row['x'])


def parse(text):
    return specs.parse(text, {'own': own})


# ---- Entries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('entry', 'path', 'proportion'),
    [
        ('rows.jsonl', 'rows.jsonl', Proportion()),
        ('rows.jsonl:0.5', 'rows.jsonl', Proportion(0.5)),
        ('rows.jsonl:1/4', 'rows.jsonl', Proportion(0.25)),
        ('rows.jsonl: 7/-1', 'rows.jsonl', Proportion(rows=7)),
        ('rows.jsonl:2', 'rows.jsonl', Proportion(2.0)),
        ('folder:0', 'folder', Proportion(0.0)),
        ('odd:name.jsonl', 'odd:name.jsonl', Proportion()),
        ('odd:name.jsonl:0.5', 'odd:name.jsonl', Proportion(0.5)),
        ('odd:0.5', 'odd:0.5', Proportion()),
        ('odd:0.5:2', 'odd:0.5', Proportion(2.0)),
        ('alpaca:0.5:x.jsonl', 'alpaca:0.5:x.jsonl', Proportion()),
        ('org/name:0.5', 'org/name', Proportion(0.5)),
        ('alpaca/rows', 'alpaca/rows', Proportion()),
        ('alpaca/rows:0.5', 'alpaca/rows', Proportion(0.5)),
        ('alpaca/no.jsonl', 'alpaca/no.jsonl', Proportion()),
        ('/no/such.jsonl:0.5', '/no/such.jsonl', Proportion(0.5)),
    ],
)
def test_a_path(entry, path, proportion):
    assert parse(entry) == [specs.Spec(path, proportion=proportion)]


PKU = adapters.pku_saferlhf
HUB = 'PKU-Alignment/PKU-SafeRLHF'


@pytest.mark.parametrize(
    ('entry', 'expected'),
    [
        (
            'alpaca',
            specs.Spec('tatsu-lab/alpaca', adapters.alpaca, 'alpaca', split='train'),
        ),
        (
            'PKU-SafeRLHF/test:0.25',
            specs.Spec(HUB, PKU, 'PKU-SafeRLHF/test', Proportion(0.25), split='test'),
        ),
        (
            'PKU-SafeRLHF/train:10/-1:/data:1/x.jsonl',
            specs.Spec(
                '/data:1/x.jsonl',
                PKU,
                'PKU-SafeRLHF/train',
                Proportion(rows=10),
                split='train',
            ),
        ),
        (
            'PKU-SafeRLHF::rows.jsonl',
            specs.Spec('rows.jsonl', PKU, 'PKU-SafeRLHF', split='train'),
        ),
        (
            'HelpSteer2/validation',
            specs.Spec(
                'nvidia/HelpSteer2',
                adapters.OfSplit(adapters.helpsteer2, 'split', 'validation'),
                'HelpSteer2/validation',
                split='train',  # of the only file
                folder='preference',
            ),
        ),
        (
            'hh-rlhf-harmless-dialogue',
            specs.Spec(
                'PKU-Alignment/processed-hh-rlhf',
                adapters.processed_hh_rlhf,
                'hh-rlhf-harmless-dialogue',
                split='train',
                folder='harmless-base',
            ),
        ),
        (
            'hh-rlhf-helpful-preference/test:1:folder',
            specs.Spec(
                'folder',
                adapters.processed_hh_rlhf,
                'hh-rlhf-helpful-preference/test',
                split='test',
                folder='helpful-base',
            ),
        ),
        (
            'moss-003-sft:1:folder',
            specs.Spec('folder', adapters.moss_003, 'moss-003-sft', split='train'),
        ),
        ('own:2:rows.jsonl', specs.Spec('rows.jsonl', own, 'own', Proportion(2.0))),
    ],
)
def test_a_name(entry, expected):
    assert parse(entry) == [expected]


def test_several_entries_and_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    found = parse(' rows.jsonl:0.5 ,, alpaca:2, ~/folder:3,own::~/rows.jsonl')
    assert [spec.path for spec in found] == [
        'rows.jsonl',
        'tatsu-lab/alpaca',
        f'{tmp_path}/folder',
        f'{tmp_path}/rows.jsonl',
    ]
    assert [spec.proportion.share for spec in found] == [0.5, 2, 3, 1]
    assert parse(' , ') == []


@pytest.mark.parametrize(
    'name',
    [
        *('alpaca', 'stanford-alpaca', 'firefly', 'hh-rlhf-dialogue'),
        *('hh-rlhf-harmless-dialogue', 'hh-rlhf-helpful-dialogue'),
        *('hh-rlhf-harmless-preference/train', 'hh-rlhf-harmless-preference/test'),
        *('hh-rlhf-helpful-preference/train', 'hh-rlhf-helpful-preference/test'),
        *('hh-harmless-dialogue', 'hh-helpful-preference/test'),
        *('PKU-SafeRLHF/train', 'PKU-SafeRLHF/test', 'PKU-SafeRLHF-30K/train'),
        *('PKU-SafeRLHF-30K/test', 'PKU-SafeRLHF-10K/train'),
    ],
)
def test_the_names_of_safe_rlhf_need_no_path(name):
    (spec,) = parse(name)
    assert spec.path.count('/') == 1
    assert spec.name == name


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (
            'alpacca',
            "'alpacca' is unknown, did you mean 'alpaca'?: no file, no direct",
        ),
        (
            'alpacca:0.5',
            "'alpacca' is unknown, did you mean 'alpaca'? in 'alpacca:0",
        ),
        ('alpacca:0.5:rows.jsonl', "'alpacca' is unknown, did you mean 'alpaca'?"),
        ('owl:1:rows.jsonl', "'owl' is unknown, did you mean 'own'?"),
        ('hh-rlhf-helpful-preferense/train', "mean 'hh-rlhf-helpful-preference/train'"),
        ('PKU-SafeRLHF/trian', "no split 'trian'; known: train, test"),
        ('moss-003-sft', "'moss-003-sft' names no file; write moss-003-sft:1:PATH"),
        ('own:0.5', "'own:0.5' names no file; write own:0.5:PATH"),
        ('alpaca:1:', "'alpaca:1:' names no file; write alpaca:1:PATH"),
        ('alpaca:half', "'half' in 'alpaca:half' is no proportion; use a share such a"),
        ('rows.jsonl:half', "'half' in 'rows.jsonl:half' is no proportion"),
        ('rows.jsonl:-1', "'-1' in 'rows.jsonl:-1' is no proportion"),
        ('rows.jsonl:nan', 'is no proportion'),
        ('rows.jsonl:inf', 'is no proportion'),
        ('rows.jsonl:1/0', 'is no proportion'),
        ('rows.jsonl:-5/-1', 'is no proportion'),
        ('rows.jsonl:1.5/-1', 'is no proportion'),
    ],
)
def test_an_entry_that_means_nothing(entry, message):
    with pytest.raises(rows.DataError) as info:
        parse(f'rows.jsonl,{entry}')
    assert message in str(info.value)
    assert '\n' not in str(info.value)


@pytest.mark.parametrize(
    ('name', 'prompts', 'others'),
    [('HelpSteer2', ['a', 'c', 'd'], 1), ('HelpSteer2/validation', ['b', 'd'], 2)],
)
def test_rows_that_name_their_split(tmp_path, name, prompts, others):
    lines = [
        {'prompt': prompt, 'response_1': 'x', 'response_2': 'y'}
        | {'preference_strength': 1}
        | ({'split': split} if split else {})
        for prompt, split in zip(
            'abcd', ['train', 'validation', 'train', ''], strict=True
        )
    ]
    folder = tmp_path / 'clone' / 'preference'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'preference.jsonl').write_text(text)
    for path in ('clone', 'clone/preference/preference.jsonl'):
        counts = sources.Counts()
        found = sources.comparisons(
            parse(f'{name}:1:{path}'), need='better', on_bad_row='error', counts=counts
        )
        assert [pair.prompt for pair in found] == [(prompt,) for prompt in prompts]
        assert counts == {'read': 4, 'kept': len(prompts), 'other_split': others}


# ---- Proportions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'count'),
    # Of 10 rows. Halves are rounded to even numbers: 2.5 to 2.
    [
        *(('1', 10), ('0.5', 5), ('0.25', 2), ('1/4', 2), ('2', 20), ('2.31', 23)),
        *(('0', 0), ('0.04', 0), ('7/-1', 7), ('23/-1', 23), ('0/-1', 0), ('1e-1', 1)),
    ],
)
def test_how_many_rows_a_proportion_takes(text, count):
    proportion = specs.proportion(text)
    assert proportion is not None
    found = specs.select(10, proportion, SEED)
    assert len(found) == proportion.of(10) == count
    # Each row is there as often as any other, or once more.
    times = np.bincount(found, minlength=10)
    assert times.max() - times.min() <= 1
    assert (np.diff(found) >= 0).all()
    again = np.random.SeedSequence(0)
    np.testing.assert_array_equal(found, specs.select(10, proportion, again))


def test_another_seed_draws_other_rows():
    one, other = (specs.select(100, 0.5, s) for s in np.random.SeedSequence(1).spawn(2))
    assert set(one) != set(other)
    assert specs.select(0, 0.5, SEED).tolist() == []
    assert specs.select(0, Proportion(rows=3), SEED).tolist() == []
    assert specs.select(3, 1.0, SEED).tolist() == [0, 1, 2]


def test_the_rows_that_safe_rlhf_draws():
    # Its rule, with NumPy alone: of each source's child seed, `choice` of the rest.
    seed = np.random.SeedSequence(42).spawn(1)[0]
    rng = np.random.default_rng(np.random.SeedSequence(42).spawn(1)[0])
    expected = sorted([*range(10), *rng.choice(10, size=4, replace=False).tolist()])
    assert specs.select(10, 1.4, seed).tolist() == expected


def _write(path, prompts):
    path.write_text(''.join(f'{{"prompt": "{p}", "response": "r"}}\n' for p in prompts))
    return path


def test_sources_are_drawn_on_their_own(tmp_path):
    _write(tmp_path / 'one.jsonl', [f'one {i}' for i in range(40)])
    _write(tmp_path / 'two.jsonl', [f'two {i}' for i in range(30)])

    def read(text, seed=0):
        counts = sources.Counts()
        found = sources.demonstrations(specs.parse(text), seed=seed, counts=counts)
        return [record.prompt[0] for record in found], counts

    found, counts = read('one.jsonl:0.5,two.jsonl:50/-1')
    one = [prompt for prompt in found if prompt.startswith('one')]
    assert found[:20] == one == sorted(one, key=lambda x: int(x[4:]))
    assert counts == {
        'read': 70,
        'kept': 70,  # 20 + 50
        'not_drawn': 20,
        'repeated': 20,
    }
    assert read('one.jsonl:0.5,two.jsonl:50/-1')[0] == found
    assert read('one.jsonl:0.5,two.jsonl:50/-1', seed=1)[0] != found
    # A set of none is not even looked for, and takes no seed.
    assert read('no.jsonl:0,one.jsonl:0.5,two.jsonl:50/-1')[0] == found
    with pytest.raises(rows.DataError, match=r'No row is wanted of one.jsonl;'):
        read('one.jsonl:0')


def test_a_prompt_that_is_repeated_is_a_duplicate(tmp_path):
    _write(tmp_path / 'one.jsonl', ['a', 'b', 'a'])
    counts = sources.Counts()
    found = sources.prompts(specs.parse('one.jsonl:2'), counts=counts)
    assert [prompt.prompt for prompt in found] == [('a',), ('b',)]
    assert counts == {'read': 3, 'kept': 2, 'repeated': 3, 'duplicate_prompt': 4}


def test_records_are_read_as_they_are_asked_for(tmp_path):
    (tmp_path / 'rows.jsonl').write_text('{"prompt": "a"}\nbroken')
    counts = sources.Counts()
    (spec,) = specs.parse('rows.jsonl')
    found = sources.read(spec, 'prompts', on_bad_row='error', counts=counts)
    assert next(found) == records.Prompt(('a',), 'rows.jsonl:1')
    assert counts == {'read': 1}
    with pytest.raises(rows.BadRowError, match=r'^rows\.jsonl:2: '):
        next(found)


# ---- Columns ------------------------------------------------------------------------


def test_columns():
    assert specs.parse_columns('') is None
    found = specs.parse_columns(' prompt = question, response=the answer,')
    assert found == adapters.Columns({'prompt': 'question', 'response': 'the answer'})
    assert specs.parse('rows.jsonl,alpaca', columns=found)[0].adapter is found
    assert specs.parse('rows.jsonl,alpaca', columns=found)[1].adapter is adapters.alpaca


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('prompt', "'prompt' names no column; write PART=COLUMN"),
        ('prompt=', "'prompt=' names no column"),
        (
            'promt=q',
            "'promt=q': 'promt' is unknown, did you mean 'prompt'?; known: pro",
        ),
        ('harm.=q', "'harm.' is unknown"),
        ('harm.a=q', "'harm.a' is unknown"),
        ('prompt=q,prompt=r', "'prompt' is named twice"),
        ('response=q', r'prompt names no column; add prompt=COLUMN'),
        ('prompt=q,response_0=a', r'response_0 needs its other; add response_1=COLUMN'),
        ('prompt=q,better=a', r'better is of pairs; add response_0=COLUMN'),
        ('prompt=q,safe_0=a,safe_1=b', r'safe_0 is of pairs; add response_0=COLUMN'),
        ('prompt=q,safe=a', r'safe is of a response; add response=COLUMN'),
    ],
)
def test_columns_that_mean_nothing(text, message):
    with pytest.raises(rows.DataError) as info:
        specs.parse_columns(text)
    assert message in str(info.value)


# ---- Functions of one's own ---------------------------------------------------------


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
