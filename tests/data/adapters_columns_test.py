"""Columns of any name."""

import csv

import pytest

from beaver_jax.data import examples
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs
from tests import formats

Comparison, Demonstration, Prompt = (
    sources.Comparison,
    sources.Demonstration,
    sources.Prompt,
)


ANY = 'prompt=q,response_0=one,response_1=two,better=best,safer=mild,safe_0=ok 1'
ANY += (
    ',safe_1=ok 2,severity_0=s 1,severity_1=s 2,harm.privacy_0=p 1,harm.privacy_1=p 2'
)
ANY_ROW = {
    **{'q': 'a', 'one': 'b', 'two': 'c', 'best': 1, 'mild': 0, 'ok 1': True},
    **{'ok 2': False, 's 1': 0, 's 2': 2, 'p 1': False, 'p 2': True, 'prompt': 'x'},
}
ANY_PAIR = Comparison(
    ('a',),
    ('b', 'c'),
    **formats.KNOWN,
    harms={'privacy': (False, True)},
    severity=(0, 2),
    where='x.jsonl:1',
)


def test_columns_of_any_name(write, tokenizer):
    write(ANY_ROW)
    spec = specs.parse('x.jsonl', columns=specs.parse_columns(ANY))
    for need, ids in (('better', formats.SECOND), ('safer', formats.FIRST)):
        found = sources.comparisons(spec, need=need, on_bad_row='error')
        assert found == [ANY_PAIR]
        (example,) = examples.encode_pairs(
            found, tokenizer, preferred=need, max_length=99
        )
        assert tuple(tokens.tolist() for tokens in example.tokens) == ids
    for changes, message in (
        ({'best': 3}, "field 'best' is 3; it must be 0 or 1"),
        ({'one': ''}, "field 'one' is ''; it must not be empty"),
        ({'two': 'b'}, "one and two are both 'b'"),
    ):
        write(ANY_ROW | changes)
        with pytest.raises(rows.BadRowError, match=rf'^x\.jsonl:1: {message}'):
            sources.comparisons(spec, need='better', on_bad_row='error')


def test_columns_of_csv(tmp_path, write):
    write()  # to be in the folder
    with (tmp_path / 'x.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(ANY_ROW))
        writer.writeheader()
        writer.writerow(ANY_ROW)
    spec = specs.parse('x.csv', columns=specs.parse_columns(ANY))
    (pair,) = sources.comparisons(spec, need='safer', on_bad_row='error')
    assert pair == Comparison(**{**vars(ANY_PAIR), 'where': 'x.csv:2'})
    assert {type(text) for text in (*pair.prompt, *pair.responses)} == {str}


def test_answers_and_prompts_in_columns_of_any_name(write):
    write({'q': 'a', 'r': 'b', 'ok': True}, {'q': 'c', 'r': 'd', 'ok': False})
    text = 'prompt=q,response=r,safe=ok'
    spec = specs.parse('x.jsonl', columns=specs.parse_columns(text))
    assert sources.demonstrations(spec, on_bad_row='error') == [
        Demonstration(('a',), 'b', 'x.jsonl:1', True)
    ]
    spec = specs.parse('x.jsonl', columns=specs.parse_columns('prompt=q'))
    assert [p.prompt for p in sources.prompts(spec)] == [('a',), ('c',)]
    spec = specs.parse('x.jsonl', columns=specs.parse_columns('prompt=question'))
    with pytest.raises(
        rows.BadRowError, match="no field 'question'; the row has 'q', '"
    ):
        sources.prompts(spec, on_bad_row='error')
