"""What entries of config.data mean, and names of columns."""

import json

import pytest

from beaver_jax.data import adapters
from beaver_jax.data import records
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs

pytestmark = pytest.mark.usefixtures('here')
Proportion = specs.Proportion


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
