"""Bad settings are refused, with the way out, before anything is written."""

import pytest

from beaver_jax import train
from tests import micro

# ---- Policies -----------------------------------------------------------------------


POLICY = [
    ({'ppo.kl_coeff': -0.1}, 'config.ppo.kl_coeff=-0.1; must not be negative.'),
    ({'ppo.ptx_coeff': -1}, 'config.ppo.ptx_coeff=-1.0; must not be negative.'),
    ({'ppo.clip_ratio': 0}, 'config.ppo.clip_ratio=0.0; must be above 0.'),
    ({'ppo.gamma': 1.5}, 'config.ppo.gamma=1.5; must be in [0, 1].'),
    ({'ppo.truncation': 'drop'}, "config.ppo.truncation='drop'; known: "),
    ({'rollout.temperature': 0}, 'config.rollout.temperature=0.0; must be above 0'),
    (
        {'costs.harm.threshold': 'nan'},
        'config.costs.harm.threshold=nan is no finite number; use one in the cost '
        "model's units.",
    ),
    ({'costs.harm.threshold': '-inf'}, 'config.costs.harm.threshold=-inf is no finite'),
    (
        {'costs.harm.multiplier_init': 6},
        'config.costs.harm.multiplier_init=6.0 is not between 0 and '
        'config.multiplier.max=5.0.',
    ),
    ({'costs.harm.multiplier_init': -1}, 'multiplier_init=-1.0 is not between 0 and'),
    ({'costs.harm.multiplier_init': 'nan'}, 'multiplier_init=nan is not between 0 and'),
    (
        {'costs.harm.multiplier_init': 0, 'multiplier.form': 'log'},
        'config.costs.harm.multiplier_init=0.0: in log space λ = 0 stays 0 forever; '
        'use a positive start, or config.multiplier.form=projected.',
    ),
    ({'multiplier.form': 'pid'}, "config.multiplier.form='pid'; known: projected, log"),
    ({'multiplier.learning_rate': -1}, 'config.multiplier.learning_rate=-1.0; use a'),
    (
        {'multiplier.max': 'nan'},
        'config.multiplier.max=nan; use a number from 0',
    ),
    (
        {'multiplier.window': 0},
        'config.multiplier.window=0; use a number from 1',
    ),
    (
        {'costs.harm.shaping': 1},
        'config.costs.harm has a threshold and a shaping coefficient; a cost has one',
    ),
    (
        {'actor_optimizer.learning_rate': -1},
        'config.actor_optimizer.learning_rate=-1.0; must be above 0.',
    ),
    (
        {'critic_optimizer.weight_decay': -1},
        'config.critic_optimizer.weight_decay=-1.0',
    ),
    ({'actor_optimizer.clip_norm': -1}, 'config.actor_optimizer.clip_norm=-1.0; must'),
    ({'actor_optimizer.schedule': 'step'}, "config.actor_optimizer.schedule='step'"),
    ({'iterations': 0}, 'config.iterations=0; must be at least 1.'),
    ({'max_response_length': 0}, 'config.max_response_length=0; must be at least 1.'),
    ({'rollout.samples_per_prompt': 0}, 'config.rollout.samples_per_prompt=0; must be'),
    (
        {'reference.dtype': 'float64'},
        "config.reference.dtype='float64'; known: auto, float32",
    ),
    ({'critic.remat': 'some'}, "config.critic.remat='some'; known: none, full, dots."),
    ({'actor.logits_chunk': -1}, 'config.actor.logits_chunk=-1; must not be negative'),
    ({'checkpoint.every': 0}, 'config.checkpoint.every=0; must be at least 1.'),
    ({'checkpoint.keep': 0}, 'config.checkpoint.keep=0; must be at least 1.'),
    ({'checkpoint.best': -1}, 'config.checkpoint.best=-1; must not be negative.'),
    ({'checkpoint.mode': 'most'}, "config.checkpoint.mode='most'; known: min, max."),
    ({'watch.then': 'end'}, "config.watch.then='end'; known: warn, stop, ignore."),
    ({'watch.kl': -1}, 'config.watch.kl=-1.0; use a number from 0, 0 for none.'),
    ({'watch.window': 0}, 'config.watch.window=0; must be at least 1.'),
    ({'log.every': 0}, 'config.log.every=0; must be at least 1.'),
    ({'max_bad_steps': 0}, 'config.max_bad_steps=0; must be at least 1.'),
    (
        {'late_compilation': 'stop'},
        "config.late_compilation='stop'; known: warn, error, ignore.",
    ),
    ({'seed': -1}, 'config.seed=-1; must not be negative.'),
    ({'if_exists': 'ask'}, "config.if_exists='ask'; known: refuse, resume, overwrite."),
    # 2×2×2 devices.
    (
        {'mesh.fsdp': 3},
        'config.mesh.fsdp=3 does not divide 8 devices; use 1, 2, 4 or 8.',
    ),
    ({'mesh.data': 4}, 'the product of the sizes must be 8, and one of'),
    (
        {'rollout.prompts': 10},
        'config.rollout.prompts=10 is not a multiple of data×fsdp=4 of the mesh; use 8 '
        'or 12.',
    ),
    (
        {'rollout.chunks': 3},
        'config.rollout.chunks=3 does not cut 16 rows on 4 devices into equal parts; '
        'use a divisor of 4.',
    ),
    ({'ppo.minibatches': 3}, 'config.ppo.minibatches=3 does not cut 16 rows on 4'),
    ({'ppo.parts': 3}, 'config.ppo.parts=3 does not cut 8 rows on 4 devices into'),
    (
        {'data.on_bad_row': 'keep'},
        "config.data.on_bad_row='keep' is unknown; use drop",
    ),
    ({'data.prompts': 'no.jsonl'}, "No file 'no.jsonl'; check the path."),
    (
        {'data.prompts': ''},
        'config.data.prompts is empty; name one or more jsonl files',
    ),
]


@pytest.mark.parametrize('overrides, expected', POLICY, ids=lambda v: str(v)[:40])
def test_a_policy_is_refused_before_anything_is_written(
    overrides, expected, configs, started, tmp_path
):
    argv = micro.arguments(configs, 'ppo_lag', started | overrides)
    assert expected in micro.error(train.main, argv)
    assert not (tmp_path / 'run').exists()


def test_a_negative_shaping_coefficient(configs, started):
    argv = micro.arguments(
        configs, 'ppo_reward_shaping', started | {'costs.harm.shaping': -1}
    )
    line = micro.error(train.main, argv)
    assert line.startswith(
        'Error: config.costs.harm.shaping=-1.0; must not be negative'
    )


def test_a_chain_is_refused_before_its_first_stage(configs, tmp_path):
    overrides = {'run': tmp_path / 'run', 'ppo.kl_coeff': -1}
    line = micro.error(train.main, micro.arguments(configs, 'ppo_lag', overrides))
    assert line == 'Error: config.ppo.kl_coeff=-1.0; must not be negative.'
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('role', ['lora', 'actor.lora', 'critic.lora'])
def test_adapters_of_nothing_are_refused_before_the_first_stage(
    role, configs, tmp_path
):
    # The models are yet to be trained; their maps are known.
    changes = {f'{role}.rank': 4, f'{role}.targets': 'mlp/gate_proj'}
    overrides = {'run': tmp_path / 'run', **changes}
    line = micro.error(train.main, micro.arguments(configs, 'ppo_lag', overrides))
    where = {'lora': 'cost: config.model.lora'}.get(role, f'config.{role}')
    assert line.startswith(f"Error: {where}.targets='mlp/gate_proj' matches none of: ")
    assert 'layers/mlp/gate' in line
    assert not (tmp_path / 'run').exists()


# ---- Supervised models --------------------------------------------------------------


SUPERVISED = [
    (
        {'batch_size': 10},
        'config.batch_size=10 is not a multiple of data×fsdp=4 of the mesh; use 8 or 1',
    ),
    ({'parts': 3}, 'config.parts=3 does not cut 16 rows on 4 devices into equal parts'),
    (
        {'steps': 0, 'epochs': 0},
        'config.steps=0 and config.epochs=0.0; set steps above',
    ),
    ({'max_length': 0}, 'config.max_length=0; must be at least 1.'),
    ({'loss.regularization': -1}, 'config.loss.regularization=-1.0; must not be'),
    ({'loss.loss_type': 'token'}, "config.loss.loss_type='token'; known: "),
    ({'optimizer.warmup_ratio': 2}, 'config.optimizer.warmup_ratio=2.0; must be in'),
    ({'data.contradictions': 'keep'}, "config.data.contradictions='keep' is unknown"),
    ({'data.test_share': 1}, 'config.data.test_share=1.0; must be from 0 to below 1.'),
    ({'data.workers': -1}, 'config.data.workers=-1; must not be negative.'),
]


@pytest.mark.parametrize('overrides, expected', SUPERVISED, ids=lambda v: str(v)[:40])
def test_a_cost_model_is_refused_before_anything_is_written(
    overrides, expected, configs, supervised, tmp_path
):
    argv = micro.arguments(configs, 'cost', supervised | overrides)
    assert expected in micro.error(train.main, argv)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'overrides, expected',
    [
        ({'max_length': 129}, 'config.max_length=129 is more than the 128 positions'),
        ({'model.scratch.num_kv_heads': 3}, 'config.model.scratch.num_kv_heads=3 does'),
        ({'model.scratch.mlp_dim': 0}, 'config.model.scratch.mlp_dim=0; must be at'),
        ({'model.tokenizer': 'no'}, "No directory 'no' to load a tokenizer from"),
    ],
)
def test_what_only_the_data_and_the_model_tell(
    overrides, expected, chain, configs, few_rows, tmp_path
):
    tokenizer = {'model.tokenizer': chain / 'world' / 'tokenizer'}
    run = {'run': tmp_path / 'run'}
    argv = micro.arguments(configs, 'sft', tokenizer | few_rows | run | overrides)
    assert expected in micro.error(train.main, argv)
