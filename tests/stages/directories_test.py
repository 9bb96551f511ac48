"""Whose a stage's directory is. What a run makes of it: tests/run_directory_test.py."""

import json

import ml_collections
import pytest

from beaver_jax.stages import directories
from beaver_jax.stages import inputs


@pytest.fixture
def config(tmp_path):
    values = {
        'run': str(tmp_path / 'run'),
        'stage': 'sft',
        'if_exists': 'refuse',
        'rate': 0.1,
        'betas': (0.9, float('inf')),
        'log': {'every': 1},
        'mesh': {'data': -1},
        'data': {'workers': 0},
    }
    return ml_collections.ConfigDict(values)


def begin(config):
    assert not directories.claim(config)
    path = directories.directory(config)
    (path / 'metrics.jsonl').write_text('{"step": 1}\n')
    return path


def finish(config):
    path = begin(config)
    (path / directories.SUMMARY).write_text('{}')
    return path


def test_a_directory_is_claimed_and_its_config_written(config, tmp_path):
    assert not directories.claim(config)
    path = tmp_path / 'run' / 'sft'
    assert directories.directory(config) == path
    assert json.loads((path / 'config.json').read_text()) == {
        'run': str(tmp_path / 'run'),
        'stage': 'sft',
        'if_exists': 'refuse',
        'rate': 0.1,
        'betas': [0.9, 'Infinity'],
        'log.every': 1,
        'mesh.data': -1,
        'data.workers': 0,
    }
    assert [file.name for file in path.iterdir()] == ['config.json']


@pytest.fixture
def another_process(config, monkeypatch):
    """Lets what process 0 writes appear after so many seconds of another's waiting."""

    def lags(seconds):
        file = directories.directory(config) / directories.CONFIG
        now = [100.0]

        def sleep(more):
            now[0] += more
            if now[0] >= 100 + seconds and not file.exists():
                file.parent.mkdir(parents=True)
                file.write_text('{}')

        monkeypatch.setattr(directories.distributed, 'by_first', lambda *_: False)
        monkeypatch.setattr(directories.time, 'monotonic', lambda: now[0])
        monkeypatch.setattr(directories.time, 'sleep', sleep)
        return file

    return lags


def test_what_process_0_has_written_may_come_late(config, another_process):
    file = another_process(59.0)
    assert not directories.claim(config)
    assert file.is_file()


def test_what_does_not_come_is_on_another_disk(config, another_process):
    file = another_process(61.0)
    with pytest.raises(inputs.InputError) as caught:
        directories.claim(config)
    assert str(caught.value) == (
        f'{file}, which process 0 has written, is not to be seen from process 0; set '
        '--config.run to a directory that all hosts share.'
    )


def test_the_same_config_goes_on_and_is_done_once_there_is_a_summary(config):
    path = begin(config)
    assert not directories.claim(config)
    assert not directories.is_done(path)
    finish(config)
    assert directories.claim(config)
    assert directories.is_done(path)


def test_what_may_change_between_two_starts(config):
    finish(config)
    config.log.every, config.mesh.data, config.data.workers = 5, 2, 3
    assert directories.claim(config)
    config.rate = 0.2
    with pytest.raises(inputs.InputError, match=r'\(rate: 0\.1 → 0\.2\)\. Choose'):
        directories.claim(config)


def test_many_changes_are_not_all_told(config):
    begin(config)
    with config.unlocked():
        for i in range(9):
            config[f'new{i}'] = i
    with pytest.raises(inputs.InputError, match=r'new5: None → 5 …\)'):
        directories.claim(config)


def test_a_directory_with_nothing_to_lose_may_be_claimed_anew(config):
    directories.claim(config)
    config.rate = 0.2
    assert not directories.claim(config)
    saved = json.loads((directories.directory(config) / 'config.json').read_text())
    assert saved['rate'] == 0.2


def test_a_checkpoint_is_something_to_lose(config):
    directories.claim(config)
    checkpoints = directories.directory(config) / directories.CHECKPOINTS
    (checkpoints / '1').mkdir(parents=True)
    config.rate = 0.2
    with pytest.raises(inputs.InputError, match='holds a run with another config'):
        directories.claim(config)


def test_resume_goes_on_under_another_config(config):
    path = finish(config)
    config.rate, config.if_exists = 0.2, 'resume'
    assert not directories.claim(config)
    assert not directories.is_done(path)
    assert (path / 'metrics.jsonl').exists()
    config.if_exists = 'refuse'
    assert not directories.claim(config)  # it is this config's now
    (path / directories.SUMMARY).write_text('{}')
    config.if_exists = 'resume'
    assert directories.claim(config)


def test_of_another_evaluation_it_is_told_what_would_happen(config):
    with config.unlocked():
        config.stage, config.models = 'evaluate', 'a=1,b=2'
    directories.claim(config)
    path = directories.directory(config)
    (path / directories.RESULTS).write_text('{}')
    config.models = 'a=1'
    with pytest.raises(inputs.InputError) as caught:
        directories.claim(config)
    assert str(caught.value) == (
        f"{path} holds an evaluation with another config (models: 'a=1,b=2' → 'a=1'). "
        'Choose another --config.run, or --config.if_exists=overwrite, which moves it '
        'aside; resume does so too, unless the new one has the same models and more.'
    )


def test_an_evaluation_that_goes_on_is_no_longer_done(config):
    with config.unlocked():
        config.stage, config.models, config.if_exists = 'evaluate', 'a=1', 'resume'
    assert not directories.claim(config)
    path = directories.directory(config)
    (path / directories.RESULTS).write_text('{"old": 1}')
    config.models = 'a=1,b=2'
    assert not directories.claim(config)
    assert not (path / directories.RESULTS).exists()
    assert not path.with_name('evaluate.old-1').exists()


def test_what_is_done_may_be_moved_aside_under_any_config(config):
    path = finish(config)
    assert directories.claim(config)
    assert not directories.claim(config, aside=True)
    assert directories.is_done(path.with_name('sft.old-1'))
    assert not directories.is_done(path)


def test_overwrite_moves_aside_and_deletes_nothing(config):
    config.if_exists = 'overwrite'
    for _ in range(3):
        finish(config)
    names = sorted(path.name for path in directories.directory(config).parent.iterdir())
    assert names == ['sft', 'sft.old-1', 'sft.old-2']
    for old in names[1:]:
        path = directories.directory(config).with_name(old)
        assert directories.is_done(path)


def test_a_run_that_was_moved_is_told_from_where_it_is(tmp_path):
    values = {
        'run': 'sft',  # like the stage
        'stage': 'sft',
        'preset': 'sft',
        'data.sft': 'sft/world/a.jsonl,other/sft/b.jsonl,own:1:sft/c.jsonl',
        'models': 'sft=sft/ppo,before=old/sft',
        'actor.init': 'sft/sft',
    }
    path = tmp_path / 'moved' / 'sft'
    path.mkdir(parents=True)
    (path / directories.CONFIG).write_text(json.dumps(values))
    assert directories.recorded(path, 'new') == {
        'run': 'new',
        'stage': 'sft',
        'preset': 'sft',
        'data.sft': 'new/world/a.jsonl,other/sft/b.jsonl,own:1:new/c.jsonl',
        'models': 'sft=new/ppo,before=old/sft',
        'actor.init': 'new/sft',
    }


def test_another_word_is_refused(config):
    config.if_exists = 'ask'
    with pytest.raises(inputs.InputError, match=r"config\.if_exists='ask'; known"):
        directories.check(config)
