"""BIG-bench's JSON tasks: reading, prompts, grading, errors, and the whole command."""

import dataclasses
import json
import re
from typing import Any

import pytest

from beaver_jax.evaluate import bigbench
from beaver_jax.evaluate.bigbench import __main__ as command
from beaver_jax.evaluate.bigbench import prompts
from beaver_jax.evaluate.bigbench import tasks
from tests import micro
from tests.serve import small

SUMS: dict[str, Any] = {
    'name': 'sums',
    'metrics': ['exact_str_match', 'bleu', 'multiple_choice_grade'],
    'preferred_score': 'multiple_choice_grade',
    'examples': [
        {'input': '1+1', 'target_scores': {'2': 1, '3': 0}},
        {'input': '1+2', 'target': ['3', 'three'], 'target_scores': {'3': 1, '4': 0}},
        {'input': '2+2', 'target': '4'},
    ],
}


def written(folder, **changes):
    file = folder / 'task.json'
    file.write_text(json.dumps(SUMS | changes))
    return file


def read(folder, **changes):
    return tasks.read(written(folder, **changes))


def test_a_task_as_it_is_read(tmp_path):
    task = read(tmp_path)
    assert task == tasks.read(tmp_path)  # the directory that holds it
    assert task.metrics == ('multiple_choice_grade', 'exact_str_match')
    assert (task.others, task.preferred) == (('bleu',), 'multiple_choice_grade')
    assert [one.targets for one in task.examples] == [('2',), ('3', 'three'), ('4',)]
    assert [len(one.scores) for one in task.examples] == [2, 2, 0]


def test_prompts_by_hand(tmp_path):
    task = read(tmp_path, append_choices_to_input=False)
    assert prompts.prompt(task, 0, 0, seed=0) == '\nQ: 1+1\nA: '
    task = read(
        tmp_path,
        task_prefix='Add.',
        example_input_prefix='|',
        example_output_prefix='=',
        choice_prefix='/',
        few_shot_example_separator=';',
    )
    # The only others, in some order; with choices in some order; then the question.
    shots = r'\|1\+1/(2/3|3/2)=2', r'\|1\+2/(3/4|4/3)=3'
    shown = prompts.prompt(task, 2, 2, seed=0)
    assert re.fullmatch(
        rf'Add\.({shots[0]};{shots[1]}|{shots[1]};{shots[0]});\|2\+2=', shown
    )
    assert shown == prompts.prompt(task, 2, 2, seed=0)


def test_seeds_give_other_shots_and_other_orders(tmp_path):
    task = read(tmp_path)
    shown = [[prompts.prompt(task, i, 1, seed) for i in range(3)] for seed in range(9)]
    assert len({tuple(one) for one in shown}) > 3
    for one in shown:  # an example is none of its own shots
        assert ['1+1' in one[0], '1+2' in one[1], '2+2' in one[2]] == [True] * 3
        assert [one[i].count(x) for i, x in enumerate(('1+1', '1+2', '2+2'))] == [1] * 3


def test_shots_are_any_of_the_others_and_each_once():
    draws = [prompts._others(5, 2, 3, seed) for seed in range(40)]
    assert {i for drawn in draws for i in drawn} == {0, 1, 3, 4}
    assert all(len(set(drawn)) == 3 for drawn in draws)
    assert sorted(prompts._others(5, 2, 4, seed=0)) == [0, 1, 3, 4]
    assert prompts._others(5, 2, 3, seed=7) == draws[7]


class Echo:
    """A model that says 1 to everything; its tokens are letters."""

    first_id = 0

    @property
    def texts(self):
        return self

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return ''.join(map(chr, ids))

    def generate(self, asked):
        return [[ord('1')] for _ in asked]


class Counted(tuple):
    """Examples that count how often somebody goes through all of them."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_a_task_costs_a_few_passes_over_its_examples(tmp_path, monkeypatch):
    rows = [{'input': f'{i}', 'target': f'{i + 1}'} for i in range(50)]
    task = read(tmp_path, metrics=['exact_str_match'], examples=rows)
    counted = Counted(task.examples)
    task = dataclasses.replace(task, examples=counted)
    # Without shots nothing is drawn.
    monkeypatch.setattr(prompts, '_others', lambda *unused: 1 / 0)
    echo: Any = Echo()
    results, _ = bigbench.run(echo, [task])
    assert results['sums']['metrics']['exact_str_match']['value'] == 1 / 50
    assert counted.passes < 10  # not one an example


@pytest.mark.parametrize(
    ('changes', 'text', 'expected'),
    [
        ({}, ' 4 \nQ: 5', '4'),
        ({'stop_string': '.'}, '4\n.5', '4'),
        ({'output_regex': r'\d+'}, 'so 41, not 2', '41'),
        ({'output_regex': r'so (\d)'}, 'so 41', '4'),
        ({'output_regex': r'so (\d)'}, 'none', ''),
        # An answer of two lines: a line's end does not end it.
        ({'examples': [{'input': 'x', 'target': 'a\nb'}] * 2}, 'a\nb', 'a\nb'),
    ],
)
def test_what_of_a_text_is_the_answer(changes, text, expected, tmp_path):
    metrics = {'metrics': ['exact_str_match']}
    task = read(tmp_path, **metrics, **changes)
    assert prompts.answer(task, text, prompts.stops(task)) == expected


def test_grades_by_hand(tmp_path):
    rows = [
        {'multiple_choice_grade': 1, 'exact_str_match': 1.0},
        {'multiple_choice_grade': 0, 'exact_str_match': 0.0},
        {'exact_str_match': 0.0},  # an example without choices
    ]
    found = bigbench.summary(read(tmp_path), rows)
    choice, exact = found['metrics'].values()
    # 1 of 2, whose interval is [x, 1 - x] with 1 - (1 - x)² = 0.025: 1 - √0.975.
    assert (choice['value'], choice['examples']) == (0.5, 2)
    assert choice['interval'] == pytest.approx([0.012579, 0.987421], abs=1e-6)
    # 1 of 3: 1 - (1 - low)³ = 0.025, so low = 1 - 0.975^(1/3) = 0.008404.
    assert (exact['value'], exact['examples']) == (pytest.approx(1 / 3), 3)
    assert exact['interval'][0] == pytest.approx(0.008404, abs=1e-6)
    assert found['not_computed'] == ['bleu']
    rows[0]['multiple_choice_grade'] = 0.5  # no rate of right answers any more
    (choice, _) = bigbench.summary(read(tmp_path), rows)['metrics'].values()
    assert (choice['value'], choice['interval']) == (0.25, None)


EXAMPLES = [{'input': 'x', 'target': 'y'}] * 2


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'examples': []}, '"examples" must be a list of questions'),
        ({'examples': None}, '"examples" must be a list of questions'),
        ({'metrics': 'bleu'}, '"metrics" must be a list of names'),
        ({'metrics': ['bleu']}, '"metrics" are bleu; of these none is computed here'),
        ({'examples': EXAMPLES}, 'needs "target_scores", and no example has them'),
        ({'examples': ['x']}, 'examples[0] must have a text "input"'),
        ({'examples': [{'input': 1}]}, 'examples[0] must have a text "input"'),
        ({'examples': [*EXAMPLES, {'input': 'x'}]}, 'examples[2] needs "target"'),
        ({'examples': [{'input': 'x', 'target': 3}]}, 'examples[0] needs "target"'),
        (
            {'examples': [{'input': 'x', 'target_scores': {'a': 'b', 'c': 1}}]},
            'examples[0]: "target_scores" must hold a number by choice',
        ),
        (
            {'examples': [{'input': 'x', 'target_scores': {'a': 1}}]},
            'examples[0]: "target_scores" needs two choices, none empty',
        ),
        ({'choice_prefix': 3}, '"choice_prefix" is 3; must be a str'),
        (
            {'append_choices_to_input': 'no'},
            '"append_choices_to_input" is \'no\'; must be a bool',
        ),
        ({'output_regex': '('}, '"output_regex" is \'(\': missing )'),
    ],
    ids=str,
)
def test_tasks_that_are_refused(changes, message, tmp_path):
    with pytest.raises(tasks.TaskError) as error:
        read(tmp_path, **changes)
    told = str(error.value)
    assert told.startswith(f'{tmp_path / "task.json"}: ') and message in told
    assert '\n' not in told


@pytest.mark.parametrize(
    ('text', 'message'),
    [('{\n"name"', 'line 2 is no JSON'), ('[]', 'is no JSON object')],
)
def test_files_that_are_no_tasks(text, message, tmp_path):
    (tmp_path / 'task.json').write_text(text)
    with pytest.raises(tasks.TaskError, match=message):
        tasks.read(tmp_path)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--shots', '3'], '--shots=3, but sums has 3 examples, and so at most 2'),
        (['--shots', '-1'], '--shots=-1; must not be negative'),
        (['--max_new_tokens', '0'], '--max_new_tokens=0; must be at least 1'),
        (['--batch_size', '0'], 'holds no model'),  # the model is looked for first
        ([], 'holds no model'),
    ],
    ids=str,
)
def test_command_lines_that_are_refused(options, message, tmp_path):
    file, out = str(written(tmp_path)), str(tmp_path / 'out')
    argv = [str(tmp_path), file, '--out', out, *options]
    assert message in micro.error(command.main, argv)
    twice = [str(tmp_path), file, file, '--out', out]
    assert "two tasks are called 'sums'" in micro.error(command.main, twice)
    missing = [str(tmp_path), str(tmp_path / 'none.json'), '--out', out]
    assert 'none.json' in micro.error(command.main, missing)


def test_the_command_from_a_task_to_its_results(tmp_path, capsys):
    model = small.language_model(tmp_path / 'model')
    out = tmp_path / 'out'
    argv = [model, str(written(tmp_path)), '--out', str(out), '--shots', '1']
    # The shapes of language_model_test: nothing is compiled anew.
    argv += ['--batch_size', '3', '--max_length', '40', '--max_new_tokens', '8']
    command.main(argv)
    results = json.loads((out / 'results.json').read_text())
    rows = [json.loads(x) for x in (out / 'samples.jsonl').read_text().splitlines()]
    assert [row['example'] for row in rows] == [0, 1, 2]
    assert 'chosen' not in rows[2] and all('answer' in row for row in rows)
    for row in rows[:2]:
        best = max(row['logps'], key=row['logps'].get)
        assert row['chosen'] == best
        scores = SUMS['examples'][row['example']]['target_scores']
        assert row['multiple_choice_grade'] == scores[best]
    told = results['tasks']['sums']['metrics']['multiple_choice_grade']
    assert told['value'] == sum(row['multiple_choice_grade'] for row in rows[:2]) / 2
    assert (results['model'], results['shots'], results['seed']) == (model, 1, 0)
    assert 'sums multiple_choice_grade' in capsys.readouterr().out
    assert 'is there already; choose another --out' in micro.error(command.main, argv)
