"""Which rows of a source a proportion takes, and what is counted of the rest."""

import numpy as np
import pytest

from beaver_jax.data import records
from beaver_jax.data import rows
from beaver_jax.data import sources
from beaver_jax.data import specs

pytestmark = pytest.mark.usefixtures('here')
SEED = np.random.SeedSequence(0)


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
    assert specs.select(0, specs.Proportion(rows=3), SEED).tolist() == []
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
