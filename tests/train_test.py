"""The training command: chains of stages, ends, and what a second start does."""

import json
import os
import re
import shutil

import pytest

from beaver_jax import layout
from beaver_jax import metrics
from beaver_jax import train
from tests import micro


def test_the_whole_chain_is_trained_evaluated_and_reported(chain):
    for stage in ('sft', 'reward', 'cost', 'ppo_lag'):
        found = micro.summary(chain, stage)
        assert (found['stage'], found['seed']) == (stage, 0)
        steps = 5 if stage == 'ppo_lag' else 4
        rows = metrics.read(chain / stage / metrics.METRICS)
        assert [row['step'] for row in rows] == list(range(1, steps + 1))
        assert found['steps'] == steps
        assert (chain / stage / 'model' / 'model.safetensors').is_file()
        assert list((chain / stage).glob('events.out.tfevents.*'))
    assert 0 <= micro.summary(chain, 'reward')['metrics']['accuracy'] <= 1
    results = json.loads((chain / 'evaluate' / 'results.json').read_text())
    assert list(results['models']) == ['sft', 'ppo_lag']
    # Pairs and prompts that were held out: the world's default sizes.
    assert results['prompts'] == 256
    report = json.loads((chain / 'report' / 'summary.json').read_text())
    assert report['policies'] == ['sft', 'ppo_lag']
    assert set(report['seconds']) >= {'sft', 'reward', 'cost', 'ppo_lag'}
    assert '<html' in (chain / 'report' / 'index.html').read_text()


def test_what_a_run_of_ppo_lag_logs(chain):
    rows = metrics.read(chain / 'ppo_lag' / metrics.METRICS)
    names = {
        'train/reward',
        'train/kl_divergence',
        'train/effective_kl_coeff',
        'train/actor_grad_norm',
        'train/actor_lr',
        'train/clip_fraction',
        'train/rollout_gap',
        'train/mean_generated_length',
        'train/truncated_share',
        'train/bad_steps',
        # Of the only constraint, with its name and, as in the original, without.
        *(f'train/{name}{end}' for end in ('', '/harm') for name in _OF_A_CONSTRAINT),
    }
    assert names <= rows[0].keys()
    timings = metrics.read(chain / 'ppo_lag' / metrics.TIMINGS)
    parts = {'time/rollout', 'time/scoring', 'time/update'}
    assert timings[0].keys() >= parts | {'time/step', 'tokens_per_second'}


def test_decoding_with_a_cache_says_what_a_full_pass_says(chain):
    rows = metrics.read(chain / 'ppo_lag' / metrics.METRICS)
    # In float32, of log-probabilities of a few nats.
    assert all(row['train/rollout_gap'] < 1e-5 for row in rows)


_OF_A_CONSTRAINT = ('cost', 'episode_cost', 'lambda', 'threshold', 'cost_critic_loss')


def test_lambda_climbs_by_the_rate_times_the_excess(chain):
    rows = metrics.read(chain / 'ppo_lag' / metrics.METRICS)
    before = [1.0] + [row['train/lambda'] for row in rows[:-1]]
    for old, row in zip(before, rows, strict=True):
        # λ ← clip(λ + 0.2·(Ĉ - d), 0, 5), with the window of one batch: Ĉ is its mean.
        assert row['train/episode_cost'] == pytest.approx(row['train/cost'], abs=1e-6)
        moved = old + 0.2 * (row['train/episode_cost'] - row['train/threshold'])
        assert row['train/lambda'] == pytest.approx(min(max(moved, 0), 5), rel=1e-5)
    found = micro.summary(chain, 'ppo_lag')['multiplier']['harm']
    assert found['final'] == rows[-1]['train/lambda']
    assert found['max'] == max(1.0, *(row['train/lambda'] for row in rows))


def test_a_second_start_says_done_and_does_nothing(chain, configs, capsys):
    before = micro.snapshot(chain)
    train.main(micro.arguments(configs, 'ppo_lag', {'run': chain}))
    assert f'{chain}/ppo_lag: done, nothing to do' in capsys.readouterr().err
    assert micro.snapshot(chain) == before


def test_after_another_training_a_report_is_written_anew(
    chain, configs, tmp_path, capsys
):
    run = tmp_path / 'run'
    shutil.copytree(chain, run)
    argv = micro.arguments(configs, 'ppo_lag', {'run': run})
    reported = run / 'report' / 'summary.json'
    times = []
    for is_new in (True, False):
        if is_new:
            os.utime(run / 'ppo_lag' / 'summary.json')
        train.main(argv)
        # The same weights came out of it.
        assert (
            f'{run}/evaluate holds this evaluation already' in capsys.readouterr().err
        )
        times.append(reported.stat().st_mtime_ns)
    trained = (run / 'ppo_lag' / 'summary.json').stat().st_mtime_ns
    assert trained <= times[0] == times[1]


def test_another_stage_of_the_run_uses_what_is_there(
    chain, configs, few_rows, tmp_path, capsys
):
    run = tmp_path / 'run'
    overrides = {'run': run, **few_rows, 'data.world': 'true', 'iterations': 1}
    overrides['actor.init'] = chain / 'sft'
    train.main(micro.arguments(configs, 'ppo', overrides))
    log = capsys.readouterr().err
    # Its reward model starts from the run's own SFT model, which is trained as well.
    assert f'ppo needs {run}/sft, {run}/reward: trained first' in log
    assert f'{run}/cost' not in log
    assert re.search(
        rf'{run}/ppo: compiled: rollout \d.* s, scoring \d.* s, update', log
    )
    assert 'again' not in log
    made = ['evaluate', 'ppo', 'report', 'reward', 'sft', 'world']
    assert sorted(os.listdir(run)) == made
    rows = metrics.read(run / 'ppo' / metrics.METRICS)
    assert not [name for name in rows[0] if 'cost' in name or 'lambda' in name]


def test_reward_shaping_measures_costs_and_has_no_multiplier(
    chain, configs, few_rows, tmp_path
):
    run = tmp_path / 'run'
    overrides = {
        'run': run,
        **micro.models(chain, 'sft', 'reward', 'cost'),
        **few_rows,
        'costs.harm.shaping': 0.5,
        'iterations': 1,
    }
    micro.train_alone(micro.arguments(configs, 'ppo_reward_shaping', overrides))
    (row,) = metrics.read(run / 'ppo_reward_shaping' / metrics.METRICS)
    # shaped = R - 0.5·C, and means are linear.
    shaped = row['train/reward'] - 0.5 * row['train/cost']
    assert row['train/shaped_reward'] == pytest.approx(shaped, abs=1e-6)
    assert 'train/lambda' not in row
    assert 'multiplier' not in micro.summary(run, 'ppo_reward_shaping')


def test_a_policy_that_diverges_stops_its_run_and_the_good_checkpoint_is_named(
    chain, configs, tmp_path, caplog
):
    alone = metrics.read(chain / 'ppo_lag' / metrics.METRICS)
    entropies = [row['train/entropy'] for row in alone]
    # Falls at every step: the third is the first below this bound.
    bound = (entropies[1] + entropies[2]) / 2
    assert min(entropies[:2]) > bound > max(entropies[2:])
    run = tmp_path / 'run'
    overrides = {
        'run': run,
        **micro.models(chain, 'sft', 'reward', 'cost'),
        'data.world': 'false',
        'data.prompts': chain / 'world' / 'prompts_train.jsonl',
        'data.prompts_test': chain / 'world' / 'prompts_test.jsonl',
        'watch.entropy': bound,
        'watch.window': 1,
    }
    stops = micro.arguments(configs, 'ppo_lag', overrides | {'watch.then': 'stop'})
    with pytest.raises(train.RunError) as caught:
        micro.train_alone(stops)
    where = f'{run}/ppo_lag/checkpoints'
    # Step 3 is of the state of step 2; that of step 1 was good at step 2.
    assert str(caught.value) == (
        f'step 3: the entropy is 5.9 nats, below config.watch.entropy={bound:g}; the '
        f'last good checkpoint is {where}/1, remove {where}/2 to go back to it. Lower '
        'the learning rate or raise config.ppo.kl_coeff, and go on with '
        '--config.if_exists=resume or start anew with --config.if_exists=overwrite.'
    )
    assert [x['step'] for x in metrics.read(run / 'ppo_lag' / metrics.METRICS)] == [
        *(1, 2, 3)
    ]
    # Told once, it goes on as one that was never stopped; and the best is kept.
    best = {'watch.then': 'warn', 'checkpoint.keep': 1, 'checkpoint.best': 1}
    caplog.clear()
    micro.train_alone(micro.arguments(configs, 'ppo_lag', overrides | best))
    assert 'resumed after step 2 of 5' in caplog.text
    assert caplog.text.count('the entropy is') == 1
    assert 'ppo_lag, step 3: the entropy is 5.9 nats' in caplog.text
    assert metrics.read(run / 'ppo_lag' / metrics.METRICS) == alone
    rewards = [row['train/reward'] for row in alone[2:]]
    steps = {3 + rewards.index(max(rewards)), 5}
    assert {saved.step for saved in layout.checkpoints(run / 'ppo_lag')} == steps


TWO = '''"""Two constraints on one cost model."""

from beaver_jax import config as config_lib


def get_config(preset='tiny'):
    config = config_lib.load({path!r} + ':' + preset)
    with config.unlocked():
        config.costs.second = config.costs.harm.copy_and_resolve_references()
        config.costs.second.init = config.get_ref('run') + '/cost'
        config.costs.second.threshold = 1.0
        config.costs.second.multiplier_init = 0.5
    return config
'''


def test_two_constraints_from_a_config_file(chain, configs, few_rows, tmp_path):
    folder = micro.write_configs(tmp_path / 'configs')
    source = TWO.format(path=str(configs / 'ppo_lag.py'))
    (folder / 'two.py').write_text(source)
    run = tmp_path / 'run'
    overrides = {
        'run': run,
        **micro.models(chain, 'sft', 'reward', 'cost'),
        **few_rows,
        'costs.second.init': chain / 'cost',
        'iterations': 2,
    }
    train.main(micro.arguments(folder, 'two', overrides))
    rows = metrics.read(run / 'ppo_lag' / metrics.METRICS)
    first, last = rows
    # One model scores both, so both see the same costs; d is -3 and 1.
    assert first['train/cost/harm'] == first['train/cost/second']
    assert first['train/threshold/harm'] == -3
    assert first['train/threshold/second'] == 1
    for row, old in ((first, 0.5), (last, first['train/lambda/second'])):
        moved = old + 0.2 * (row['train/episode_cost/second'] - 1)
        assert row['train/lambda/second'] == pytest.approx(max(moved, 0), rel=1e-5)
    assert first['train/lambda/harm'] > 1 > 0.5 > first['train/lambda/second']
    # Plain names would be of neither.
    assert 'train/lambda' not in first
    assert 'train/cost' not in first
    found = micro.summary(run, 'ppo_lag')
    assert set(found['multiplier']) == {'harm', 'second'}
    results = json.loads((run / 'evaluate' / 'results.json').read_text())
    assert 'cost/second' in results['models']['ppo_lag']
