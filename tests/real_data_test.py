"""The commands on real input: a trained model, and rows that people wrote."""

import json
import math
import re

import pytest

from beaver_jax import train
from beaver_jax.chat import __main__ as chat
from tests import micro
from tests import real


@pytest.fixture(scope='module')
def trained(shared_data, tmp_path_factory):
    """The run of a whole chain from one command, the command, and what it printed."""
    directory = tmp_path_factory.mktemp('real')
    command = real.arguments(shared_data, directory)
    # Its long pairs take more time to run than to compile well.
    flags = '--xla_backend_optimization_level=1'
    running = micro.process('beaver_jax.train', command, flags=flags)
    printed = micro.finished(running)
    return directory / 'run', command, printed


def _greedy(data, tokens):
    command = [str(real.model(data)), '--raw', '--prompt', '', '--temperature', '0']
    return [*command, '--max_new_tokens', str(tokens)]


def test_chat_decodes_the_golden_text_greedily(shared_data):
    command = _greedy(shared_data, 200)
    printed = micro.finished(micro.process('beaver_jax.chat', command))
    golden = (shared_data / 'stories260K' / 'golden_greedy.txt').read_text()
    assert printed == golden + '\n'


def test_chat_takes_as_many_devices_as_the_model_can_be_cut_for(shared_data, capsys):
    # Of the eight devices of these tests: an MLP of 172 is cut for four at most.
    chat.main(_greedy(shared_data, 12))
    golden = (shared_data / 'stories260K' / 'golden_greedy.txt').read_text()
    printed = capsys.readouterr().out.removesuffix('\n')
    assert len(printed) > 12
    assert golden.startswith(printed)


def test_one_command_trains_all_stages_on_real_rows(trained):
    run, *_ = trained
    counts = {stage: micro.summary(run, stage)['data'] for stage in _STAGES}
    for stage, use in _STAGES.items():
        # Every real row is usable; some are too long for this model.
        assert counts[stage]['read'] == counts[stage]['kept'] == real.ROWS[use][1]
        assert 0 < counts[stage]['examples'] <= counts[stage]['kept']
    assert counts['reward']['identical_tokens'] > 0  # the prompt alone is too long
    assert counts['sft']['cut_response'] > 0
    assert counts['ppo_lag']['shortened_prompt'] > 0


_STAGES = {
    'sft': 'sft',
    'reward': 'reward_pairs',
    'cost': 'cost_pairs',
    'ppo_lag': 'prompts',
}


def test_the_inputs_are_as_long_as_what_they_are_for(trained):
    run, *_ = trained
    for stage in ('sft', 'reward', 'cost'):
        config = json.loads((run / stage / 'config.json').read_text())
        assert config['max_length'] == 88 + 8
    evaluated = json.loads((run / 'evaluate' / 'results.json').read_text())
    for policy in evaluated['models'].values():
        assert 0 < policy['mean_length'] <= 8


def test_the_policies_are_compared_on_prompts_that_were_held_out(trained):
    run, *_ = trained
    results = json.loads((run / 'evaluate' / 'results.json').read_text())
    assert list(results['models']) == ['sft', 'ppo_lag']
    for policy in results['models'].values():
        assert all(math.isfinite(policy[name]) for name in ('reward', 'cost'))
    kept = micro.summary(run, 'ppo_lag')['data']
    # All prompts of the file are distinct: what is not trained on is evaluated.
    assert results['prompts'] == kept['kept'] - kept['examples'] > 0
    assert (run / 'report' / 'index.html').is_file()


def test_a_second_start_does_nothing(trained):
    run, command, _ = trained
    before = micro.snapshot(run)
    train.main(command)
    assert micro.snapshot(run) == before


def test_no_text_of_the_rows_is_printed(trained, shared_data):
    _, _, printed = trained
    texts = real.texts(shared_data)
    assert len(texts) > 1000
    for stage in _STAGES:
        assert re.search(rf'{stage}: data: [\d,]+ rows read, [\d,]+ usable', printed)
    # The first letters of each: a text of a few could stand in a log by chance.
    starts = {text[:20] for text in texts if len(text) >= 20}
    assert not [start for start in starts if start in printed]


def test_a_chain_without_a_model_to_start_from_is_refused_at_once(
    shared_data, tmp_path
):
    command = real.arguments(shared_data, tmp_path)
    line = micro.error(train.main, [*command, '--config.base='])
    assert 'config.base is empty' in line
    assert not (tmp_path / 'run').exists()


def test_a_chain_that_lacks_rows_for_its_last_input_is_refused_at_once(
    shared_data, tmp_path
):
    command = real.arguments(shared_data, tmp_path)
    line = micro.error(train.main, [*command, '--config.data.cost_pairs='])
    run = tmp_path / 'run'
    assert 'config.data.cost_pairs is empty' in line
    assert f'(ppo_lag needs {run}/cost, which is not trained yet, and so cost' in line
    assert '--config.costs.harm.init=DIRECTORY' in line
    assert not run.exists()


def test_a_bad_row_of_its_last_input_is_found_at_once(shared_data, tmp_path):
    file = micro.write_rows(tmp_path / 'pairs.jsonl', [{'prompt': 'one'}])
    command = real.arguments(shared_data, tmp_path)
    changes = ['--config.data.on_bad_row=error', f'--config.data.cost_pairs={file}']
    line = micro.error(train.main, [*command, *changes])
    assert f"{file}:1: there is no field 'response_0'" in line
    assert not (tmp_path / 'run').exists()


def test_sequences_longer_than_the_model_are_refused(shared_data, tmp_path):
    command = real.arguments(shared_data, tmp_path)
    line = micro.error(train.main, [*command, '--config.max_response_length=425'])
    # The first stage to be trained has 88 + 425 = 513 tokens, one too many.
    assert 'config.max_length=513 is more than the 512 positions' in line
