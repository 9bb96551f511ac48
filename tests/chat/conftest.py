"""A policy that talks on, and what it must say."""

import shutil

import pytest

from beaver_jax.chat import talker as talker_lib
from beaver_jax.models import hf
from beaver_jax.rollout import sampling

GREEDY = sampling.Sampler(temperature=0)


@pytest.fixture(scope='session')
def model(chain, tmp_path_factory):
    """The chain's policy, to which the EOS is as likely as the unknown token.

    Of two, greedy decoding takes the first: no answer ends early.
    """
    directory = tmp_path_factory.mktemp('chat') / 'model'
    shutil.copytree(chain / 'ppo_lag' / 'model', directory)
    lm, params = hf.load_causal_lm(directory)
    kernel = params['lm_head']['kernel']
    unk, eos = 0, 2
    params['lm_head']['kernel'] = kernel.at[:, eos].set(kernel[:, unk])
    hf.save_causal_lm(directory, lm.config, params)
    return str(directory)


@pytest.fixture(scope='session')
def talker(model):
    return talker_lib.Talker(model, GREEDY, max_new_tokens=12, seed=0)
