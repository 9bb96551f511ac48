"""Tests of digests: what is the same has the same one, and nothing else has."""

import dataclasses
import os
import shutil

from beaver_jax import config as config_lib
from beaver_jax.data import sources
from beaver_jax.evaluate import provenance
from tests import micro


def test_a_model_is_known_by_weights_config_and_tokenizer(chain, tmp_path):
    model = chain / 'sft' / 'model'
    expected = provenance.of_model(model)
    copy = tmp_path / 'copy'
    shutil.copytree(model, copy)
    os.utime(copy / 'config.json', (0, 0))
    for name in ('README.md', 'trainer_state.json'):
        (copy / name).write_text('of no account')
    (copy / 'logs').mkdir()
    assert provenance.of_model(copy) == expected
    found = {expected, provenance.of_model(chain / 'ppo_lag' / 'model')}
    for name in ('config.json', 'tokenizer_config.json'):
        text = (copy / name).read_text()
        (copy / name).write_text(text + ' ')
        found.add(provenance.of_model(copy))
    (copy / 'chat_template.jinja').write_text('{{ messages }}')
    found.add(provenance.of_model(copy))
    assert len(found) == 5


def digests(config, chain, prompts, pairs):
    return provenance.of(config, {'sft': f'{chain}/sft'}, prompts, {'reward': pairs})


def test_prompts_and_pairs_are_known_by_what_they_say_and_their_order(chain, configs):
    overrides = {'reward.init': chain / 'reward', 'costs.harm.init': chain / 'cost'}
    config = config_lib.from_argv(micro.arguments(configs, 'evaluate', overrides))
    one = sources.Prompt(('Why?',), where='a.jsonl, line 1', category='x')
    other = sources.Prompt(('How?',))
    pair = sources.Comparison(('Why?',), ('a', 'b'), better=0, where='a.jsonl, line 1')
    expected = digests(config, chain, [one, other], [pair])
    assert expected.keys() == {
        *('policies.sft', 'reward', 'costs.harm', 'prompts', 'pairs.reward'),
        'measures',
    }
    moved = [dataclasses.replace(x, where='b.jsonl, line 9') for x in (one, pair)]
    assert digests(config, chain, [moved[0], other], moved[1:]) == expected
    changed = dataclasses.replace(one, category='y')
    for prompts in ([other, one], [one], [changed, other]):
        found = digests(config, chain, prompts, [pair])
        assert {n for n, x in found.items() if x != expected[n]} == {'prompts'}
    worse = dataclasses.replace(pair, better=1)
    found = digests(config, chain, [one, other], [worse])
    assert {n for n, x in found.items() if x != expected[n]} == {'pairs.reward'}
