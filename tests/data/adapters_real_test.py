"""Real rows of the formats, beside what is in their files."""

import csv
import json

import numpy as np

from beaver_jax.data import sources
from beaver_jax.data import specs

Comparison, Demonstration, Prompt = (
    sources.Comparison,
    sources.Demonstration,
    sources.Prompt,
)


def _lines(path):
    return [json.loads(line) for line in path.read_text().split('\n') if line]


def _same(values, expected):
    # Without the texts in the report, which are not for reading.
    found = np.array(
        [value == other for value, other in zip(values, expected, strict=True)]
    )
    assert found.all(), f'rows {np.flatnonzero(~found)[:5]} differ'


def test_real_pku_rows_with_all_columns(shared_data):
    path = shared_data / 'pku_saferlhf'
    lines = _lines(path / 'train.jsonl')
    expected = [
        (
            (row['prompt'],),
            (row['response_0'], row['response_1']),
            (row['better_response_id'], row['safer_response_id']),
            (row['is_response_0_safe'], row['is_response_1_safe']),
            {
                name: (harm, row['response_1_harm_category'][name])
                for name, harm in row['response_0_harm_category'].items()
            },
            (row['response_0_severity_level'], row['response_1_severity_level']),
        )
        for row in lines
    ]
    assert {len(row[4]) for row in expected} == {19}
    for entry in (
        f'{path}/train.jsonl',
        f'{path}/train.arrow',
        f'PKU-SafeRLHF/train:1:{path}/train.arrow',
    ):
        found = sources.comparisons(
            specs.parse(entry), need='safer', on_bad_row='error'
        )
        values = [
            (p.prompt, p.responses, (p.better, p.safer), p.safe, p.harms, p.severity)
            for p in found
        ]
        _same(values, expected)
    few = sources.comparisons(path / 'train.7field.jsonl', need='safer')
    _same([p.responses for p in few], [row[1] for row in expected])
    assert {(len(p.harms), p.severity) for p in few} == {(0, None)}


def test_real_hh_rows(shared_data):
    path = shared_data / 'hh_rlhf_harmless' / 'sample500.jsonl'
    counts = sources.Counts()
    found = sources.comparisons(path, need='better', counts=counts)
    # One dialogue has an empty answer.
    assert counts == {'read': 500, 'kept': 499, 'empty_text': 1}
    lines = {f'{path}:{i}': row for i, row in enumerate(_lines(path), start=1)}
    texts = [lines[pair.where] for pair in found]
    for i, name in enumerate(('chosen', 'rejected')):
        # Put together again, but for spaces around the turns.
        built = [
            ''.join(
                f'{("Human", "Assistant")[k % 2]}:{turn}'
                for k, turn in enumerate((*pair.prompt, pair.responses[i]))
            )
            for pair in found
        ]
        _same(
            [''.join(text.split()) for text in built],
            [''.join(row[name].split()) for row in texts],
        )
    assert {pair.better for pair in found} == {0}


def test_real_firefly_and_seed_rows(shared_data):
    path = shared_data / 'alpaca_sft' / 'firefly_dummy_zh.jsonl'
    found = sources.demonstrations(path, on_bad_row='error')
    lines = [row['conversation'] for row in _lines(path)]
    said = [
        [t for pair in row for t in (pair['human'], pair['assistant'])] for row in lines
    ]
    _same([[*record.prompt, record.response] for record in found], said)
    path = shared_data / 'alpaca_sft' / 'seed_tasks.jsonl'
    counts = sources.Counts()
    found = sources.demonstrations(path, counts=counts)
    expected = []
    for row in _lines(path):
        first = row['instances'][0]
        question = row['instruction']
        if first['input']:
            question = question + ' ' + first['input']
        expected.append(((question,), first['output']))
    _same([(record.prompt, record.response) for record in found], expected)
    assert counts['kept'] == 175


def test_real_helpsteer_alpaca_and_mixed_rows(shared_data):
    path = shared_data / 'helpsteer_pairs' / 'helpfulness_preference_test.jsonl'
    pairs = sources.comparisons(path, need='better', on_bad_row='error')
    _same(
        [(p.prompt[0], *p.responses, p.better, p.safer) for p in pairs],
        [
            (
                r['prompt'],
                r['response_0'],
                r['response_1'],
                r['better_response_id'],
                None,
            )
            for r in _lines(path)
        ],
    )
    path = shared_data / 'pku_saferlhf_mixed' / 'mixed5k.sample2000.jsonl'
    pairs = sources.comparisons(path, need='safer', on_bad_row='error')
    _same(
        [(p.prompt[0], *p.responses, p.better, p.safer) for p in pairs],
        [
            (
                r['prompt'],
                r['response_0'],
                r['response_1'],
                None,
                r['safer_response_id'],
            )
            for r in _lines(path)
        ],
    )
    path = shared_data / 'alpaca_sft' / 'alpaca_en_demo.json'
    answers = sources.demonstrations(
        specs.parse(f'alpaca:1:{path}'), on_bad_row='error'
    )
    _same(
        [(record.prompt[0], record.response) for record in answers],
        [
            (
                f'{r["instruction"]} {r["input"]}' if r['input'] else r['instruction'],
                r['output'],
            )
            for r in json.loads(path.read_text())
        ],
    )


def test_real_csv_prompts(shared_data):
    path = shared_data / 'safety_prompts' / 'simple_safety_tests.csv'
    columns = specs.parse_columns('prompt=prompts_final')
    found = sources.prompts(specs.parse(str(path), columns=columns), on_bad_row='error')
    with path.open(newline='', encoding='utf-8-sig') as file:
        expected = [row['prompts_final'] for row in csv.DictReader(file)]
    _same([prompt.prompt[0] for prompt in found], expected)
    assert len(found) == 100
