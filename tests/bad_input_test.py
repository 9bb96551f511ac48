"""Bad input: every message names the value and the way out, and nothing is lost."""

import json
import shutil

import pytest
from safetensors import numpy as safetensors_numpy

from beaver_jax import train
from beaver_jax.data import rows as rows_lib
from beaver_jax.models import weights
from tests import micro


@pytest.fixture
def started(chain, few_rows, tmp_path) -> dict[str, str]:
    """Overrides of a policy that starts from the chain, into a fresh run."""
    models = micro.models(chain, 'sft', 'reward', 'cost')
    return {**models, **few_rows, 'run': str(tmp_path / 'run')}


@pytest.fixture
def supervised(chain, few_rows, tmp_path) -> dict[str, str]:
    """Overrides of a reward or cost model that starts from the chain."""
    return {
        'model.init': str(chain / 'sft'),
        **few_rows,
        'run': str(tmp_path / 'run'),
    }


# ---- The command line ---------------------------------------------------------------


@pytest.mark.parametrize(
    'argv, expected',
    [
        (['--config=configs/ppo_lagg.py'], 'did you mean configs/ppo_lag.py'),
        (['--config=configs/ppo_lag.py:tinny'], 'did you mean tiny?'),
        (
            ['--config=configs/ppo_lag.py', '--config.ppo.kl_coef=1'],
            'did you mean config.ppo.kl_coeff',
        ),
        (
            ['--config=configs/ppo_lag.py', '--config.costs.harm.threshold=low'],
            "config.costs.harm.threshold='low' is not a number",
        ),
    ],
)
def test_the_command_line(argv, expected, capsys, monkeypatch):
    monkeypatch.chdir(micro.ROOT)
    with pytest.raises(SystemExit) as caught:
        train.main(argv)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count('\n') == 1


def test_a_process_ends_with_the_line_and_no_traceback(tmp_path):
    run = tmp_path / 'run'
    overrides = [f'--config.run={run}', '--config.mesh.fsdp=3']
    running = micro.process(
        'beaver_jax.train', ['--config=configs/sft.py', *overrides], devices=4
    )
    output, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    expected = 'Error: config.mesh.fsdp=3 does not divide 4 devices; use 1, 2 or 4.\n'
    assert output == expected
    assert not run.exists()


def test_the_traceback_is_kept_on_request(configs, tmp_path, monkeypatch):
    monkeypatch.setenv('BEAVER_JAX_TRACEBACK', '1')
    argv = micro.arguments(configs, 'sft', {'run': tmp_path, 'parts': 3})
    with pytest.raises(train.RunError, match=r'config\.parts=3'):
        train.main(argv)


# ---- Settings -----------------------------------------------------------------------

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


# ---- Rows ---------------------------------------------------------------------------

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


# ---- Models -------------------------------------------------------------------------


def test_an_init_without_a_model(configs, started, tmp_path):
    (tmp_path / 'empty').mkdir()
    overrides = {'costs.harm.init': tmp_path / 'empty'}
    argv = micro.arguments(configs, 'ppo_lag', started | overrides)
    line = micro.error(train.main, argv)
    assert line == (
        f"Error: config.costs.harm.init='{tmp_path}/empty' holds no model (config.json "
        'and model.safetensors); name a finished stage or a Hugging Face model '
        'directory.'
    )
    assert not (tmp_path / 'run').exists()


def test_a_causal_model_is_no_reward_model(configs, started, chain):
    overrides = {'reward.init': chain / 'sft'}
    argv = micro.arguments(configs, 'ppo_lag', started | overrides)
    line = micro.error(train.main, argv)
    assert 'a causal LM, not a score model' in line
    assert 'configs/reward.py' in line


def test_a_cost_model_without_that_output(configs, started):
    argv = micro.arguments(configs, 'ppo_lag', started | {'costs.harm.output': 1})
    line = micro.error(train.main, argv)
    assert line == 'Error: config.costs.harm.output=1: the model has outputs 0 to 0.'


@pytest.mark.parametrize(
    'layers, expected',
    [
        (1, 'left over: model.layers.1.'),
        (3, 'missing: model.layers.2.'),
    ],
)
def test_weights_of_another_architecture(
    layers, expected, chain, configs, supervised, tmp_path
):
    model = tmp_path / 'model'
    shutil.copytree(chain / 'sft' / 'model', model)
    config = json.loads((model / 'config.json').read_text())
    config['num_hidden_layers'] = layers
    (model / 'config.json').write_text(json.dumps(config))
    argv = micro.arguments(configs, 'reward', supervised | {'model.init': model})
    line = micro.error(train.main, argv)
    assert line.startswith(
        f'Error: {model}: weights do not fit the model in config.json'
    )
    assert expected in line


def truncate(model):
    path = model / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-1])
    return f'{path}: cannot be read ('


def lose_a_file(model):
    tensors = safetensors_numpy.load_file(model / 'model.safetensors')
    config = json.loads((model / 'config.json').read_text())
    weights.save(model, config, tensors, shard_bytes=1)
    lost = min(model.glob('model-*-of-*'))
    lost.unlink()
    return f'{model}: no {lost.name}.'


def change_config(model, **fields):
    config = json.loads((model / 'config.json').read_text())
    (model / 'config.json').write_text(json.dumps(config | fields))


def another_family(model):
    change_config(model, model_type='mamba')
    return f"{model}/config.json: model_type='mamba' is not known; known: bloom, "


def cut_the_vocabulary(model, by=8):
    path = model / 'model.safetensors'
    tensors = safetensors_numpy.load_file(path)
    count = len(tensors['lm_head.weight'])
    for name in ('lm_head.weight', 'model.embed_tokens.weight'):
        tensors[name] = tensors[name][: count - by]
    safetensors_numpy.save_file(tensors, path)
    return count


def wrong_shapes(model):
    count = cut_the_vocabulary(model)
    return f'wrong shape: model.embed_tokens.weight is ({count - 8}, 16), not ({count},'


def more_tokens_than_embeddings(model):
    count = cut_the_vocabulary(model)
    change_config(model, vocab_size=count - 8)
    return f'the tokenizer has {count} tokens, the model {count - 8} embeddings; use'


def an_adapter(model):
    (model / 'config.json').rename(model / 'adapter_config.json')
    return f"config.model.init='{model}' is an adapter, not a model; name the stage"


@pytest.mark.parametrize(
    'damage',
    [
        truncate,
        lose_a_file,
        another_family,
        wrong_shapes,
        more_tokens_than_embeddings,
        an_adapter,
    ],
)
@pytest.mark.parametrize('rank', [0, 2])
def test_a_damaged_model(damage, rank, chain, configs, supervised, tmp_path):
    model = tmp_path / 'damaged'
    shutil.copytree(chain / 'sft' / 'model', model)
    expected = damage(model)
    overrides = supervised | {'model.init': model, 'model.lora.rank': rank}
    line = micro.error(train.main, micro.arguments(configs, 'reward', overrides))
    assert expected in line
    assert not list((tmp_path / 'run').rglob('checkpoints'))
