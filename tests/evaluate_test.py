"""The evaluation: its arithmetic, and the command."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest

from beaver_jax import evaluate
from beaver_jax import status
from beaver_jax.evaluate import __main__ as command
from beaver_jax.evaluate import evaluators
from tests import judge_stub
from tests import micro


def answers(reward, cost, **more):
    count = len(reward)
    return evaluators.Answers(
        texts=[f'answer {i}' for i in range(count)],
        reward=np.array(reward, np.float32),
        costs={'harm': np.array(cost, np.float32)} if cost else {},
        length=np.arange(1, count + 1),
        truncated=np.arange(count) == 0,
        **more,
    )


BASE = answers([1, 2, 3, 4, 5, 6], [-1, -1, -1, 2, 2, 0])
OTHER = answers([2, 2, 2, 5, 6, 7], [-3, 1, -1, -1, 4, -2])


def test_means_of_a_policy():
    found = dict(evaluators.policy(OTHER))
    assert found == {
        'reward': 4.0,  # (2 + 2 + 2 + 5 + 6 + 7) / 6
        'cost': pytest.approx(-2 / 6),  # -3 + 1 - 1 - 1 + 4 - 2 = -2
        'safe_rate': pytest.approx(4 / 6),  # all but 1 and 4
        'mean_length': 3.5,  # (1 + … + 6) / 6
        'truncated_share': pytest.approx(1 / 6),
        'refusal_rate': 0.0,
    }


def test_a_cost_of_zero_is_safe():
    assert dict(evaluators.policy(BASE))['safe_rate'] == pytest.approx(4 / 6)


def test_wins_and_ties():
    # Higher: 2 > 1, 5 > 4, 6 > 5, 7 > 6; equal: 2 = 2; lower: 2 < 3.
    found = dict(evaluators.comparison(OTHER, BASE))
    assert found == {'win_rate': pytest.approx(4 / 6), 'tie_rate': pytest.approx(1 / 6)}
    assert dict(evaluators.comparison(BASE, BASE)) == {'win_rate': 0, 'tie_rate': 1}


def test_the_table_of_safety():
    # Baseline safe: rows 0, 1, 2, 5; the other safe: rows 0, 2, 3, 5. Wins: 0, 3, 4, 5.
    table = evaluators.safety_table(OTHER, BASE)
    cells = {
        (base, name): (cell['count'], cell['win_rate'])
        for base, row in table.items()
        for name, cell in row.items()
    }
    assert cells == {
        ('safe', 'safe'): (3, pytest.approx(2 / 3)),  # 0, 2, 5
        ('safe', 'unsafe'): (1, 0.0),  # 1
        ('unsafe', 'safe'): (1, 1.0),  # 3
        ('unsafe', 'unsafe'): (1, 1.0),  # 4
    }
    # No win of 1: (1 - p)^1 = 0.025.
    assert table['safe']['unsafe']['win_rate_interval'] == pytest.approx([0, 0.975])
    # 3 of 6 rows, by which the interval is the same on both sides of a half.
    low, high = table['safe']['safe']['share_interval']
    assert (low, low + high) == (pytest.approx(0.1181, abs=1e-4), pytest.approx(1))


def test_an_empty_cell_has_no_win_rate():
    table = evaluators.safety_table(answers([1], [-1]), answers([0], [-1]))
    # None of 1 row, and of none of them.
    assert table['unsafe']['safe'] == {
        'count': 0,
        'share_interval': pytest.approx([0, 0.975]),
        'win_rate': None,
        'win_rate_interval': [0, 1],
    }


def test_without_costs_there_is_no_safety():
    plain = answers([1, 2], None)
    assert 'safe_rate' not in dict(evaluators.policy(plain))
    assert evaluators.safety_table(plain, plain) == {}
    assert 'cost' not in plain.row(0)
    results = evaluate.summarize({'a': plain, 'b': plain}, 'a')
    assert results['tables'] == {}
    assert results['elo'].keys() == {'helpfulness'}


def test_rates_have_exact_intervals():
    gold = OTHER.with_gold([0] * 6, [-1] * 6)
    found = evaluators.rate_intervals(gold, BASE)
    assert found.keys() == {
        *('safe_rate', 'gold_harmful_rate', 'win_rate', 'tie_rate', 'refusal_rate')
    }
    # 0 of 6: 1 - 0.025^(1/6)
    assert found['gold_harmful_rate'] == pytest.approx([0, 0.45926], abs=1e-5)
    # 4 of 6 both times, the safe and the better ones.
    assert found['safe_rate'] == found['win_rate']
    # Of the baseline against itself there is nothing to be estimated.
    assert evaluators.rate_intervals(BASE, BASE).keys() == {
        *('safe_rate', 'refusal_rate')
    }


def test_elo_by_reward_and_by_cost():
    found = evaluators.ratings({'base': BASE, 'other': OTHER}, 'base')
    # 4 wins, a tie and a loss: 4.5 of 6, with the prior 5 to 2. 400·log10(5/2)
    assert found['helpfulness']['other']['rating'] == pytest.approx(1159.18, abs=0.01)
    # Costs: 3 lower (0, 3, 5), 1 equal (2), 2 higher (1, 4): 3.5 of 6, with the prior
    # 4 to 3. 400·log10(4/3)
    assert found['harmlessness']['other']['rating'] == pytest.approx(1049.98, abs=0.01)
    assert found['harmlessness']['base'] == {'rating': 1000, 'low': 1000, 'high': 1000}


def test_elo_needs_scores_of_two():
    assert evaluators.ratings({'base': BASE}, 'base') == {}
    silent = dataclasses.replace(OTHER, reward=np.full(6, np.nan))
    found = evaluators.ratings({'base': BASE, 'other': silent}, 'base')
    assert found.keys() == {'harmlessness'}


def test_the_first_of_several_costs_decides_what_is_safe():
    costs = {'harm': np.array([-1.0, 2.0]), 'length': np.array([5.0, 7.0])}
    several = dataclasses.replace(answers([1, 2], None), costs=costs)
    found = dict(evaluators.policy(several))
    assert (found['cost'], found['cost/length'], found['safe_rate']) == (0.5, 6.0, 0.5)
    row = several.row(1)
    assert (row['cost'], row['cost/length']) == (2.0, 7.0)


def test_gold_scores():
    gold = OTHER.with_gold([0, 1, 2, 3, 4, 5], [-2, 1, 2, 0, -1, 3])
    found = dict(evaluators.policy(gold))
    assert found['gold_helpfulness'] == 2.5
    assert found['gold_harmful_rate'] == 0.5  # 1, 2 and 3 are above 0
    assert gold.row(5) == {
        'text': 'answer 5',
        'reward': 7.0,
        'cost': -2.0,
        'gold_helpfulness': 5.0,
        'gold_cost': 3.0,
    }


# ---- The command --------------------------------------------------------------------


@pytest.fixture
def overrides(chain, few_rows, tmp_path):
    """An evaluation of the chain's models from outside of its run."""
    return {
        'run': tmp_path / 'run',
        'models': f'before={chain}/sft,after={chain}/ppo_lag/model',
        'baseline': 'before',
        'reward.init': chain / 'reward',
        'costs.harm.init': chain / 'cost',
        **few_rows,
    }


def run(configs, overrides):
    command.main(micro.arguments(configs, 'evaluate', overrides))
    directory = overrides['run'] / 'evaluate'
    results = json.loads((directory / 'results.json').read_text())
    lines = (directory / 'samples.jsonl').read_text().splitlines()
    return results, [json.loads(line) for line in lines]


def test_numbers_do_not_depend_on_the_batch(configs, overrides, tmp_path, capsys):
    small, small_rows = run(configs, overrides | {'batch_size': 8})
    done = status.read(overrides['run'], time.time())
    assert [(one.name, one.state, one.step) for one in done] == [
        ('evaluate', 'done', 2)
    ]
    assert small['models']['after'].keys() - small['models']['before'] == {'kl'}
    large, large_rows = run(
        configs, overrides | {'batch_size': 32, 'run': tmp_path / 'large'}
    )
    shown, log = capsys.readouterr()
    assert 'Policies on 96 held-out prompts' in shown
    directory = overrides['run'] / 'evaluate'
    assert f'evaluate: wrote {directory}/results.json and samples.jsonl' in log
    assert list(small['models']) == ['before', 'after']
    assert small['prompts'] == len(small_rows) == 96
    for name, values in small['models'].items():
        assert values == pytest.approx(large['models'][name], rel=1e-5, abs=1e-6)
        # Files of rows have no gold scores.
        assert not [key for key in values if key.startswith('gold')]
    assert small['score_models'].keys() == {'reward', 'costs.harm'}
    for name, told in small['score_models'].items():
        values = large['score_models'][name]['values']
        assert told['values'] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert small['tables'].keys() == {'after vs before'}
    cells = small['tables']['after vs before']
    assert sum(cell['count'] for row in cells.values() for cell in row.values()) == 96
    assert small['elo'].keys() == {'helpfulness', 'harmlessness'}
    assert 'Elo, before = 1000, with 95% intervals' in shown
    for one, other in zip(small_rows, large_rows, strict=True):
        assert one['prompt'] == other['prompt']
        for name in ('before', 'after'):
            assert one['answers'][name]['text'] == other['answers'][name]['text']
            assert ('kl' in one['answers'][name]) == (name == 'after')
    # The baseline's answers, compared with themselves.
    assert small['models']['before']['tie_rate'] == 1


def test_a_judge_that_refuses_costs_no_answers(configs, overrides):
    with judge_stub.serve() as stub:
        judged = overrides | judge_stub.options(stub)
        stub.status = 404  # which says nothing where models are listed
        line = micro.error(command.main, micro.arguments(configs, 'evaluate', judged))
        assert 'refuses to answer as' in line
        directory = overrides['run'] / 'evaluate'
        kept = json.loads((directory / 'results.json').read_text())
        samples = (directory / 'samples.jsonl').read_text()
        assert list(kept['models']) == ['before', 'after']
        assert len(samples.splitlines()) == 96
        stub.status = 0
        results, _ = run(configs, judged)
    assert results.pop('judge')['calls'] > 0 and results == kept
    assert (directory / 'samples.jsonl').read_text() == samples


def test_a_finished_evaluation_asks_its_judge_alone(configs, overrides, monkeypatch):
    run_directory = overrides['run']
    with judge_stub.serve({'off': 1}) as stub:  # no reply has a verdict
        judged = overrides | judge_stub.options(stub) | {'judge.attempts': 1}
        results, rows = run(configs, judged)
        assert told(results)['failed'] > 0
        monkeypatch.delattr(evaluate.answers_lib, 'Scorer')  # nothing is sampled
        before = micro.snapshot(run_directory / 'evaluate')
        stub.status = 404
        again = judged | {'judge.attempts': 2}
        argv = micro.arguments(configs, 'evaluate', again)
        assert 'refuses to answer as' in micro.error(command.main, argv)
        assert micro.snapshot(run_directory / 'evaluate') == before
        stub.status, stub.weights = 0, {'good': 1}
        later, same = run(configs, again)
        assert same == rows
        assert told(later)['failed'] == 0
        assert later | {'judge': None} == results | {'judge': None}
    # The endpoint is gone, and has nothing left to say.
    assert run(configs, again) == (later, rows)


def told(results):
    return results['judge']['dimensions']['helpfulness']['models']['after']


def test_another_evaluation_is_not_overwritten(chain, configs, overrides, few_rows):
    _, rows = run(configs, overrides)
    before = micro.snapshot(overrides['run'])
    other = overrides | {'models': f'before={chain}/sft,after={chain}/sft'}
    line = micro.error(command.main, micro.arguments(configs, 'evaluate', other))
    directory = overrides['run'] / 'evaluate'
    assert line.startswith(
        f'Error: {directory} holds an evaluation with another config (models'
    )
    assert micro.snapshot(overrides['run']) == before
    # What cannot go on is not written over.
    results, _ = run(configs, other | {'if_exists': 'resume'})
    assert results['models']['after']['kl'] == pytest.approx(0, abs=1e-5)
    aside = directory.with_name('evaluate.old-1')
    assert {
        f'evaluate/{name}': x for name, x in micro.snapshot(aside).items()
    } == before
    shutil.rmtree(directory)
    aside.rename(directory)
    # Made anew it is the same, and samples stand beside their prompts.
    _, again = run(configs, overrides | {'if_exists': 'overwrite'})
    assert again == rows
    file = few_rows['data.prompts_test']
    with open(file) as lines:
        assert [row['prompt'] for row in rows] == [
            json.loads(x)['prompt'] for x in lines
        ]


def test_an_evaluation_is_made_once_of_the_same_models_and_data(
    chain, configs, overrides, few_rows, tmp_path, monkeypatch, capsys
):
    policy, rows = tmp_path / 'policy', tmp_path / 'prompts.jsonl'
    shutil.copytree(chain / 'ppo_lag' / 'model', policy)
    shutil.copy(few_rows['data.prompts_test'], rows)
    overrides |= {
        'models': f'before={chain}/sft,after={policy}',
        'data.prompts_test': rows,
    }
    directory = overrides['run'] / 'evaluate'
    results, answers = run(configs, overrides)
    before = micro.snapshot(overrides['run'])
    capsys.readouterr()
    with monkeypatch.context() as context:
        context.delattr(evaluate.answers_lib, 'Scorer')  # nothing is loaded
        assert run(configs, overrides) == (results, answers)
    shown, log = capsys.readouterr()
    assert 'Policies on 96 held-out prompts' in shown
    assert f'{directory} holds this evaluation already' in log
    assert micro.snapshot(overrides['run']) == before

    for path in policy.iterdir():  # another model in its place
        path.unlink()
    for path in (chain / 'sft' / 'model').iterdir():
        shutil.copy(path, policy)
    other, _ = run(configs, overrides)
    assert other['models']['after']['kl'] == pytest.approx(0, abs=1e-5)
    aside = [directory.with_name(f'evaluate.old-{i}') for i in (1, 2, 3)]
    assert json.loads((aside[0] / 'results.json').read_text()) == results
    log = capsys.readouterr().err
    assert f'evaluate: {directory}: changed since: policies.after\n' in log
    assert f'moved aside to {aside[0]}' in log

    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text(''.join(lines[:40]))  # other prompts in theirs
    assert run(configs, overrides)[0]['prompts'] == 40
    assert json.loads((aside[1] / 'results.json').read_text()) == other
    run(configs, overrides | {'if_exists': 'overwrite'})
    assert aside[2].is_dir()


@pytest.mark.parametrize(
    'changes, expected',
    [
        (
            {'baseline': 'sft'},
            "config.baseline='sft' is not among the policies (before, after); train "
            'it, or name another with --config.baseline and --config.models.',
        ),
        ({'models': 'before'}, "config.models='before' is not NAME=DIRECTORY,…"),
        ({'models': 'before=a,before=b'}, "models='before=a,before=b' gives a name tw"),
        ({'models': ''}, '/run is finished); train it, or name another with'),
        ({'models': 'before=a,elo=b'}, "'elo' has a meaning of its own in reports"),
        ({'models': 'before=nowhere'}, "config.models.before='nowhere' holds no model"),
        ({'reward.init': 'nowhere'}, "config.reward.init='nowhere' holds no model"),
        ({'batch_size': 10}, 'config.batch_size=10 is not a multiple of data×fsdp=4'),
        ({'sampler.top_p': 0}, 'config.sampler.top_p=0.0; must be in (0, 1].'),
        ({'sampler.temperature': 'nan'}, 'config.sampler.temperature=nan; must not'),
        ({'costs.harm.quantize': 'int7'}, "config.costs.harm.quantize='int7'; known: "),
        (
            {'max_response_length': 100},
            'config.max_prompt_length=32 and config.max_response_length=100 are '
            'together more than the 128 positions of before; lower them.',
        ),
        (
            {'max_prompt_length': 8},
            'config.max_prompt_length: max_length=8 leaves no room',
        ),
        ({'batch_size': 0}, 'config.batch_size=0; must be at least 4.'),
        ({'benign': '"odd'}, "config.benign='\"odd' is no row of CSV (unexpected end"),
        ({'benign': 'odd'}, "config.benign='odd': no prompt is of the category 'odd'"),
        ({'data.prompts_test': 'no.jsonl'}, "No file 'no.jsonl'; check the path."),
    ],
)
def test_bad_input(changes, expected, configs, overrides, monkeypatch):
    # All of it is seen before a model is loaded.
    monkeypatch.delattr(evaluate.answers_lib, 'Scorer')
    argv = micro.arguments(configs, 'evaluate', overrides | changes)
    assert expected in micro.error(command.main, argv)
    assert not (overrides['run'] / 'evaluate').exists()


def test_a_score_model_does_not_answer(chain, configs, overrides, monkeypatch):
    monkeypatch.delattr(evaluate.answers_lib, 'Scorer')
    changes = {'models': f'before={chain}/sft,after={chain}/reward'}
    argv = micro.arguments(configs, 'evaluate', overrides | changes)
    line = micro.error(command.main, argv)
    assert f"config.models.after='{chain}/reward' is a score model; name a" in line


def test_prompts_that_are_not_asked_are_counted(configs, overrides, tmp_path, capsys):
    with open(overrides['data.prompts_test']) as lines:
        rows = [json.loads(next(lines)) for _ in range(4)]
    long = {'prompt': 'So, how ' + 'do I ' * 60 + 'make bread?'}
    file = micro.write_rows(
        tmp_path / 'rows.jsonl', [*rows, rows[0], {'prompt': 3}, 'nonsense', long]
    )
    results, kept = run(configs, overrides | {'data.prompts_test': file})
    assert len(kept) == 5
    data = results['data']
    assert (data['read'], data['kept'], data['duplicate_prompt']) == (8, 5, 1)
    assert data['bad_field'] == data['not_json'] == 1
    log = capsys.readouterr().err
    assert 'evaluate: data: 8 rows read, 5 usable, 1 prompts that were there' in log
    assert 'evaluate: before: 1 prompts are shortened to max_prompt_length' in log
