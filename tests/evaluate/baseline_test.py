"""KL to the baseline, against its definition on the sequences alone."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import sharding
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.evaluate import answers as answers_lib
from beaver_jax.models import hf
from beaver_jax.stages import records
from tests import micro
from tests.serve import small


@pytest.fixture
def config(configs, chain, few_rows, tmp_path):
    argv = micro.arguments(
        configs,
        'evaluate',
        {
            'run': tmp_path / 'run',
            'baseline': 'sft',
            'reward.init': chain / 'reward',
            'costs.harm.init': chain / 'cost',
            'batch_size': 32,
            **few_rows,
        },
    )
    return config_lib.from_argv(argv)


@pytest.fixture
def told(caplog, monkeypatch):
    """What was logged, also where a command has set up the log."""
    monkeypatch.setattr(logging.getLogger('beaver_jax'), 'propagate', True)
    caplog.set_level('INFO', logger='beaver_jax')
    return caplog


def answer(config, chain, policy='ppo_lag'):
    mesh = sharding.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        scorer = answers_lib.Scorer(config, mesh, str(chain / 'sft'))
        prompts = records.test_prompts(config)
        path = chain / policy if isinstance(policy, str) else policy
        return prompts, scorer.answer(path.name, str(path), prompts)


def logp(directory, ids, count, temperature):
    """log π of the last `count` ids, from the logits of one sequence."""
    model, params = hf.load_causal_lm(directory)
    ids = jnp.array([ids])
    logits, _ = model.apply({'params': params}, ids, jnp.ones(ids.shape, bool))
    logps = jax.nn.log_softmax(logits[0] / temperature)
    places = np.arange(ids.shape[1] - count, ids.shape[1])
    return float(logps[places - 1, ids[0, places]].sum())


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_kl_is_the_mean_log_ratio_of_whole_answers(config, chain, temperature):
    config.sampler.temperature = temperature
    prompts, found = answer(config, chain)
    policy, base = (chain / name / 'model' for name in ('ppo_lag', 'sft'))
    tokenizer = tokenizer_lib.load(policy)
    assert found.kl.shape == (len(prompts),)
    for i in (0, 5, 17):
        ids = tokenizer_lib.encode_prompt(
            tokenizer, prompts[i].prompt, max_length=config.max_prompt_length
        )
        whole, count = ids + found.tokens[i], len(found.tokens[i])
        ratio = logp(policy, whole, count, temperature) - logp(
            base, whole, count, temperature
        )
        assert found.kl[i] == pytest.approx(ratio, abs=2e-4)
    assert np.abs(found.kl).max() > 0.01  # they do differ


def test_the_baseline_answers_with_what_is_loaded_and_has_no_kl(
    config, chain, monkeypatch
):
    mesh = sharding.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        scorer = answers_lib.Scorer(config, mesh, str(chain / 'sft'))
        prompts = records.test_prompts(config)
        monkeypatch.delattr(answers_lib.loading, 'causal_lm')
        found = scorer.answer('sft', str(chain / 'sft'), prompts)
    assert found.kl is None
    alone = answers_lib.Scorer(config, mesh, '')
    monkeypatch.undo()
    with jax.set_mesh(mesh):
        same = alone.answer('sft', str(chain / 'sft'), prompts)
    assert same.texts == found.texts


@pytest.mark.parametrize(
    'changes', [{'temperature': 0.0}, {'top_k': 4}, {'top_p': 0.9}], ids=str
)
def test_answers_that_are_no_plain_samples_have_no_kl(
    config, chain, changes, told, monkeypatch
):
    monkeypatch.delattr(answers_lib.baseline_lib, 'Baseline')  # nor is it loaded
    config.sampler.update(changes)
    assert answer(config, chain)[1].kl is None
    assert 'answers are no plain samples' in told.text


def test_kl_can_be_left_out(config, chain, monkeypatch):
    monkeypatch.delattr(answers_lib.baseline_lib, 'Baseline')
    config.kl = False
    assert answer(config, chain)[1].kl is None


def test_a_policy_with_other_ids_has_no_kl(config, chain, tmp_path, told):
    other = tmp_path / 'other'
    small.language_model(other)
    assert answer(config, chain, other)[1].kl is None
    assert 'no KL of other: the baseline has another tokenizer' in told.text
