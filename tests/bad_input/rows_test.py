"""Bad rows are named by file and line, or counted: none is lost without a word."""

import pytest

from beaver_jax import train
from beaver_jax.data import rows as rows_lib
from tests import micro

PAIR = {
    'prompt': 'Sir, how do I make tea?',
    'response_0': 'Boil the water.',
    'response_1': 'Fill the cup.',
    'better_response_id': 0,
    'safer_response_id': 0,
    'is_response_0_safe': True,
    'is_response_1_safe': False,
}
CONTRADICTION = PAIR | {'is_response_0_safe': False, 'is_response_1_safe': True}
BAD_PAIRS = [
    ('{"prompt": "Hel', '\'{"prompt": "Hel\' is not JSON: '),
    ('[1, 2]', '[1, 2] is not an object.'),
    (
        {k: v for k, v in PAIR.items() if k != 'response_1'},
        "there is no field 'response_1'; the row has 'prompt', 'response_0'",
    ),
    (PAIR | {'response_0': 7}, "field 'response_0' is 7; it must be a string."),
    (PAIR | {'prompt': ' '}, "field 'prompt' is ' '; it must not be empty."),
    (PAIR | {'response_1': ''}, "field 'response_1' is ''; it must not be empty."),
    (PAIR | {'response_1': PAIR['response_0']}, 'response_0 and response_1 are both'),
    (PAIR | {'safer_response_id': 2}, "'safer_response_id' is 2; it must be 0 or 1."),
    (
        PAIR | {'is_response_0_safe': 'yes'},
        "field 'is_response_0_safe' is 'yes'; it must be true or false.",
    ),
]


@pytest.mark.parametrize('row, expected', BAD_PAIRS, ids=lambda v: str(v)[:30])
def test_a_bad_row_is_named_by_file_and_line(
    row, expected, configs, supervised, tmp_path
):
    file = micro.write_rows(tmp_path / 'pairs.jsonl', [PAIR, row])
    overrides = {'data.cost_pairs': file, 'data.on_bad_row': 'error'}
    argv = micro.arguments(configs, 'cost', supervised | overrides)
    line = micro.error(train.main, argv)
    assert line.startswith(f'Error: {file}:2: ')
    assert expected in line
    assert "on_bad_row='drop'" in line


def test_a_contradiction_may_be_an_error(configs, supervised, tmp_path):
    file = micro.write_rows(tmp_path / 'pairs.jsonl', [PAIR, CONTRADICTION])
    overrides = {'data.cost_pairs': file, 'data.contradictions': 'error'}
    argv = micro.arguments(configs, 'cost', supervised | overrides)
    line = micro.error(train.main, argv)
    assert line.startswith(f'Error: {file}:2: safer_response_id is 0, but ')
    assert "set contradictions='drop' or 'keep_ranking'." in line


@pytest.mark.parametrize('policy, kept', [('drop', 16), ('keep_ranking', 18)])
def test_what_became_of_the_rows_is_logged_and_stored(
    policy, kept, configs, supervised, tmp_path, capsys
):
    good = [PAIR | {'prompt': f'Sir, how do I make {i} teas?'} for i in range(16)]
    bad = [row for row, _ in BAD_PAIRS]
    rows = [*good, *bad, CONTRADICTION, CONTRADICTION]
    overrides = {
        'data.cost_pairs': micro.write_rows(tmp_path / 'pairs.jsonl', rows),
        'data.contradictions': policy,
        'steps': 1,
    }
    train.main(micro.arguments(configs, 'cost', supervised | overrides))
    counts = {
        'read': 27,  # 16 + 9 + 2
        'kept': kept,
        'contradictory_safety': 2,
        'not_json': 1,
        'not_an_object': 1,
        'bad_field': 4,  # a field missing, two of another type, an index of 2
        'empty_text': 2,
        'identical_responses': 1,
    }
    found = micro.summary(tmp_path / 'run', 'cost')['data']
    assert {name: found[name] for name in counts} == counts
    log = capsys.readouterr().err
    for name, count in counts.items():
        assert f'{count} {rows_lib.COUNTED[name]}' in log
