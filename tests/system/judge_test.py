"""A judged evaluation that is killed, as processes against an endpoint with faults."""

import json
import pathlib
import shutil
import signal
import sqlite3
import time

import jax
import numpy as np
import pytest

from beaver_jax.models import config as model_config
from beaver_jax.models import hf
from beaver_jax.models import score
from tests import judge_stub
from tests import micro
from tests import real
from tests import tiny

PROBLEMS = 24
KEY = 'sk-secret-of-a-test'


@pytest.fixture
def options(shared_data, tmp_path):
    """Two policies, two score models, and problems in safe-rlhf's format."""
    source = real.model(shared_data)
    model, params = hf.load_causal_lm(source)
    random = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: x + 0.02 * random.standard_normal(x.shape, np.float32), params
    )
    for name, one in (('before', params), ('after', noisy)):
        hf.save_causal_lm(tmp_path / name, model.config, one)
    for kind in ('reward', 'cost'):
        config = model_config.ScoreConfig(backbone=model.config, score_type=kind)
        scorer = score.ScoreModel(config)
        hf.save_score_model(
            tmp_path / kind, config, tiny.init(scorer), score.init_normalizer(1)
        )
    for name in ('before', 'after', 'reward', 'cost'):
        for file in ('tokenizer.model', 'tokenizer_config.json'):
            shutil.copy(source / file, tmp_path / name)
    problems = [
        {'prompt': f'Once upon a time {i}', 'category': ('Tales', 'Other')[i % 2]}
        for i in range(PROBLEMS)
    ]
    (tmp_path / 'problem.json').write_text(json.dumps(problems))
    return {
        'run': tmp_path / 'run',
        'models': f'before={tmp_path}/before,after={tmp_path}/after',
        'baseline': 'before',
        'reward.init': tmp_path / 'reward',
        'costs.harm.init': tmp_path / 'cost',
        'data.prompts_test': tmp_path / 'problem.json',
        'max_prompt_length': 96,
        'max_response_length': 12,
        'batch_size': 24,
        **micro.ONE_DEVICE,
    }


def command(options, stub):
    changes = options | {
        'judge.url': stub.url,
        'judge.model': 'stub',
        'judge.key_variable': 'JUDGE_KEY',
        'judge.timeout': judge_stub.SLOW / 2,
        'judge.backoff': 0.01,
        'judge.requests_per_minute': 0,
        'judge.attempts': 40,
        'judge.concurrency': 5,
        'judge.max_calls': 400,
    }
    argv = [f'--config.{key}={value}' for key, value in changes.items()]
    return [f'--config={micro.ROOT / "configs" / "evaluate.py"}:local', *argv]


def stored(run: pathlib.Path) -> set[str]:
    """The questions that have an answer on disk."""
    base = sqlite3.connect(run / 'judge.sqlite')
    rows = base.execute("SELECT request FROM calls WHERE state = 'usable'").fetchall()
    base.close()
    return {request for (request,) in rows}


def test_a_killed_evaluation_pays_for_no_answer_twice(options, monkeypatch):
    monkeypatch.setenv('JUDGE_KEY', KEY)
    run = options['run']
    with judge_stub.serve(judge_stub.FAULTS, seed=7) as stub:
        stub.delay = 0.05
        for wanted in (20, 45):
            running = micro.process('beaver_jax.evaluate', command(options, stub))
            while stub.count('good') < wanted:
                assert running.poll() is None, running.communicate()[0]
                time.sleep(0.01)
            running.send_signal(signal.SIGKILL)
            running.communicate()
            kept = json.loads((run / 'evaluate' / 'results.json').read_text())
            assert 'judge' not in kept
            answered, before = stored(run), len(stub.calls)
            assert len(answered) >= wanted - 10  # but for those that were under way
            printed_later = before
        printed = micro.finished(
            micro.process('beaver_jax.evaluate', command(options, stub))
        )
        later = [json.dumps(request) for _, request in stub.calls[printed_later:]]
        assert later
        assert not answered & set(later)
        calls = len(stub.calls)
        # What is complete costs nothing.
        micro.finished(micro.process('beaver_jax.evaluate', command(options, stub)))
        assert len(stub.calls) == calls <= 400
    results = json.loads((run / 'evaluate' / 'results.json').read_text())
    # A call that was killed before it was sent is counted, to be safe.
    assert calls <= results['judge']['calls'] <= calls + 10
    _check_comparisons(run)
    assert results['categories'].keys() == {'Tales', 'Other'}
    assert results['judge']['categories'].keys() == {'Tales', 'Other'}
    assert 'Helpfulness against before by stub' in printed
    assert KEY not in printed
    for path in run.rglob('*'):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def _check_comparisons(run: pathlib.Path) -> None:
    """All are there, none has failed, and each is what the stub thinks."""
    lines = (run / 'evaluate' / 'samples.jsonl').read_text().split('\n')
    answers = [json.loads(line)['answers'] for line in lines if line]
    lines = (run / 'evaluate' / 'comparisons.jsonl').read_text().split('\n')
    rows = [json.loads(line) for line in lines if line]
    assert len(rows) == PROBLEMS * 2
    for row in rows:
        one, other = (
            judge_stub.score(answers[row['prompt']][row[name]]['text'])
            for name in ('model_a', 'model_b')
        )
        expected = 'tie' if one == other else 'a' if one > other else 'b'
        assert row['outcome'] == expected
        assert row['reason'] == ''
    assert {row['outcome'] for row in rows} >= {'a', 'b'}
