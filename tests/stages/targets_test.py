"""What adapters may stand on, before anything is trained."""

import pytest

from beaver_jax import config as config_lib
from beaver_jax import stages
from beaver_jax.models import hf
from beaver_jax.stages import inputs
from beaver_jax.stages import targets
from tests import micro
from tests import tiny


@pytest.fixture
def check(configs, tmp_path):
    def run(**changes):
        dotted = {name.replace('__', '.'): value for name, value in changes.items()}
        overrides = {'run': tmp_path / 'run', **dotted}
        config = config_lib.from_argv(micro.arguments(configs, 'ppo_lag', overrides))
        targets.check(stages.chain(config, str(configs)))

    return run


def test_without_adapters_nothing_is_looked_at(check):
    check(base='nowhere')
    check(lora__targets='nothing')


def test_an_actor_may_adapt_its_head_and_a_critic_has_none(check):
    check(actor__lora__rank=2, actor__lora__targets='lm_head')
    with pytest.raises(
        inputs.InputError, match=r"critic\.lora\.targets='lm_head' match"
    ):
        check(critic__lora__rank=2, critic__lora__targets='lm_head')


def test_a_policy_may_go_on_from_another_of_the_chain(check, tmp_path):
    check(actor__init=tmp_path / 'run' / 'ppo', actor__lora__rank=2)


def test_the_maps_are_those_of_the_base(check, tmp_path):
    fields = {'num_kv_heads': 4, 'qkv_bias': True, 'gated': False, 'mlp_bias': True}
    fields |= {'family': 'gpt2', 'o_bias': True, 'norm': 'layer'}
    model, params = tiny.causal_lm(positions='learned', **fields)
    hf.save_causal_lm(tmp_path / 'base', model.config, params)
    base = {'base': tmp_path / 'base', 'lora__rank': 2}
    check(**base, lora__targets='layers/mlp/up')
    with pytest.raises(inputs.InputError) as caught:
        check(**base, lora__targets='layers/mlp/gate')
    assert str(caught.value) == (
        "sft: config.model.lora.targets='layers/mlp/gate' matches none of: "
        'layers/attention/k, layers/attention/o, layers/attention/q, '
        'layers/attention/v, layers/mlp/down, layers/mlp/up, lm_head.'
    )
