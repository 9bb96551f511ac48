"""Tests of what differs between runs: configs, and how they were evaluated."""

import dataclasses
import pathlib

import pytest

from beaver_jax.report import differences
from beaver_jax.report import files

ANSWERS = {'sft': {'text': 'yes', 'reward': 0.0, 'cost': 0.0}}
MODELS = {
    'reward.init': 'hub/reward',
    'reward.normalize': False,
    'costs.harm.init': 'hub/cost',
    'seed': 0,
}


def stage(**config):
    return files.Stage({}, {'run': 'runs/a', **config}, [], [])


def learning(**config):
    return dataclasses.replace(
        stage(**config), metrics=[{'step': 1, 'train/reward': 0.0}]
    )


def evaluated(prompts=('a', 'b'), **changes):
    samples = [{'prompt': prompt, 'answers': ANSWERS} for prompt in prompts]
    config = MODELS | {key.replace('__', '.'): value for key, value in changes.items()}
    results = {'models': {'sft': {'reward': 0.0}}}
    return files.Run(pathlib.Path('runs/a'), {}, results, config, samples)


def test_score_models_are_known_by_their_digests_wherever_they_are():
    one, copy, other = (
        evaluated(reward__init=place) for place in ('hub/a', 'hub/b', 'hub/a')
    )
    for run, digest in ((one, 'a1' * 32), (copy, 'a1' * 32), (other, 'b2' * 32)):
        run.results['digests'] = {'reward': digest, 'costs.harm': 'c3' * 32}
    runs = {'one': one, 'copy': copy, 'other': other}
    assert differences.groups(runs) == [['one', 'copy'], ['other']]
    (told,) = [x for x in differences.notes(runs) if x.startswith('Different score')]
    assert told == (
        'Different score models: reward.init is "hub/a" (digest a1a1a1a1a1a1…) in one '
        'and copy, "hub/a" (digest b2b2b2b2b2b2…) in other.'
    )
    # Beside one that has none, places are all that is known of each.
    runs['old'] = evaluated(reward__init='hub/b')
    assert differences.groups(runs) == [['one', 'other'], ['copy', 'old']]


def test_learning_is_on_one_scale_under_the_same_score_models():
    models = {'reward.init': 'hub/a', 'reward.normalize': False}
    plain, constrained, other = (
        trained(ppo_lag=learning(**models, **more), sft=stage(**{'reward.init': 'x'}))
        for more in ({}, {'costs.harm.init': 'hub/b'}, {'costs.harm.init': 'hub/c'})
    )
    assert differences.on_one_scale({'a': plain, 'b': constrained})
    assert differences.on_one_scale({'a': plain, 'b': other})
    assert not differences.on_one_scale({'a': constrained, 'b': plain, 'c': other})


def trained(evaluation=None, **stages):
    return files.Run(pathlib.Path('runs/a'), stages, {}, evaluation or {}, [])


def test_only_keys_whose_values_differ_are_told():
    one = trained(sft=stage(seed=0, lr=0.1), ppo=stage(seed=0))
    other = trained({'seed': 3}, sft=stage(seed=0, lr=0.2, new='<b>'), cost=stage(x=1))
    assert differences.configs({'one': one, 'other': other}) == {
        'sft': {
            'lr': {'one': '0.1', 'other': '0.2'},
            'new': {'one': '-', 'other': '"<b>"'},
        }
    }
    again = trained({'seed': 4}, sft=stage(seed=0, lr=0.1))
    assert differences.configs({'a': other, 'b': again})['evaluate'] == {
        'seed': {'a': '3', 'b': '4'}
    }


def test_one_and_true_are_not_the_same():
    runs = {'one': trained(sft=stage(x=1)), 'other': trained(sft=stage(x=True))}
    assert differences.configs(runs) == {'sft': {'x': {'one': '1', 'other': 'true'}}}


def test_a_path_in_the_own_run_does_not_differ_for_its_name():
    own = [stage(run=f'runs/{n}', models=f'x=runs/{n}/sft,y=runs/{n}/b') for n in 'ab']
    runs = {'a': trained(sft=own[0]), 'b': trained(sft=own[1])}
    assert differences.configs(runs) == {}
    theirs = stage(run='runs/c', models='x=runs/a/sft,y=runs/c/b')
    found = differences.configs({'a': runs['a'], 'c': trained(sft=theirs)})
    assert found['sft']['models'] == {
        'a': '"x=RUN/sft,y=RUN/b"',
        'c': '"x=runs/a/sft,y=RUN/b"',
    }


def test_runs_that_were_evaluated_alike_can_be_compared():
    runs = {'a': evaluated(), 'b': evaluated(), 'c': evaluated()}
    assert differences.groups(runs) == [['a', 'b', 'c']]
    assert differences.notes(runs) == []


@pytest.mark.parametrize(
    ('other', 'reason'),
    [
        (
            evaluated(reward__init='hub/another'),
            'Different score models: reward.init is "hub/reward" in a and c, '
            '"hub/another" in b.',
        ),
        (
            evaluated(costs__harm__init='x'),
            'Different score models: costs.harm.init is "hub/cost" in a and c, "x" in '
            'b.',
        ),
        (
            evaluated(costs__length__init='x'),
            'Different score models: costs.length.init is - in a and c, "x" in b.',
        ),
        (
            evaluated(reward__normalize=True),
            'Different score models: reward.normalize is false in a and c, true in b.',
        ),
        (
            evaluated(reward__normalize=True, reward__init='x'),
            'Different score models: reward.init is "hub/reward" in a and c, "x" in b; '
            'reward.normalize is false in a and c, true in b.',
        ),
        (evaluated(['a']), 'Different prompts: 2 of a and c; 1 of b.'),
        (evaluated(['b', 'a']), 'Different prompts: 2 of a and c; 2 of b.'),
    ],
)
def test_different_evaluations_are_told(other, reason):
    runs = {'a': evaluated(), 'b': other, 'c': evaluated()}
    assert differences.groups(runs) == [['a', 'c'], ['b']]
    assert differences.notes(runs) == [
        'Rewards and costs cannot be compared between all of these runs, only within '
        'each of: a, c; b.',
        reason,
    ]


def test_what_is_not_known_is_told_and_stands_alone():
    unknown, unkept = evaluated(), evaluated([])
    unknown.evaluation.clear()
    runs = {'a': evaluated(), 'b': unknown, 'c': unknown, 'd': unkept, 'e': unkept}
    assert differences.groups(runs) == [['a'], ['b'], ['c'], ['d'], ['e']]
    said = ' '.join(differences.notes(runs))
    assert 'evaluate/config.json, what gave the scores of b and c.' in said
    assert 'evaluate/samples.jsonl, what the prompts of d and e were.' in said


def test_a_run_that_was_not_evaluated_is_named():
    runs = {'a': evaluated(), 'b': trained(sft=stage())}
    assert differences.groups(runs) == [['a']]
    assert differences.notes(runs) == ['Not evaluated: b.']


def test_other_seeds_and_temperatures_are_told_and_can_be_compared():
    runs = {'a': evaluated(), 'b': evaluated(seed=1, sampler__temperature=0.5)}
    assert differences.groups(runs) == [['a', 'b']]
    assert differences.notes(runs) == [
        'Answers were drawn differently, which changes them and not how they are '
        'scored: sampler.temperature is - in a, 0.5 in b; seed is 0 in a, 1 in b.'
    ]


def test_a_model_is_the_same_however_its_directory_is_written(tmp_path, monkeypatch):
    (tmp_path / 'reward').mkdir()
    monkeypatch.chdir(tmp_path)
    whole = evaluated(reward__init=f'{tmp_path}/reward')
    runs = {'a': evaluated(reward__init='reward'), 'b': whole}
    assert differences.groups(runs) == [['a', 'b']]


def test_models_of_runs_that_were_moved_are_told_from_where_they_are(tmp_path):
    settings = {'run': 'runs/tiny', 'reward__init': 'runs/tiny/reward'}
    found = {}
    for name in ('a', 'b'):
        (tmp_path / name / 'tiny' / 'reward').mkdir(parents=True)
        one = evaluated(**settings)
        found[name] = dataclasses.replace(one, path=tmp_path / name / 'tiny')
    # Each has a reward model of its own, though both were once called the same.
    assert differences.groups(found) == [['a'], ['b']]
    assert any('Different score models' in note for note in differences.notes(found))


def test_paths_of_other_places_are_no_paths_of_the_run():
    values = {}
    for name in ('a', 'b'):
        config = {'run': name, 'rows': f'data/{name}/rows.jsonl', 'init': f'{name}/sft'}
        values[name] = trained(ppo=files.Stage({}, config, [], []))
    assert differences.configs(values) == {
        'ppo': {'rows': {'a': '"data/a/rows.jsonl"', 'b': '"data/b/rows.jsonl"'}}
    }
