"""Models that tests of the server share."""

import pytest

from beaver_jax.serve import app as app_lib
from beaver_jax.serve import limits
from beaver_jax.serve import models
from beaver_jax.serve import scorer
from beaver_jax.stages import score_model
from tests.serve import asking
from tests.serve import small

LIMITS = limits.Limits(
    slots=3,
    queue=5,
    prompt_tokens=64,
    answer_tokens=40,
    choices=4,
    chunk=3,
    prompts=2,
    top_logprobs=2,
    body_bytes=20_000,
    seconds=60,
)


@pytest.fixture(scope='session')
def model(tmp_path_factory):
    """A language model that is served."""
    path = small.language_model(tmp_path_factory.mktemp('served') / 'talker')
    made = models.Model('talker', path, LIMITS)
    yield made
    made.engine.close()


@pytest.fixture(scope='session')
def judge(tmp_path_factory):
    """A reward and a cost model that are served."""
    root = tmp_path_factory.mktemp('judges')
    made = scorer.Scorer(
        {
            score_model.REWARD: score_model.ScoreModel(
                small.score_model(root / 'reward', 'reward')
            ),
            'harm': score_model.ScoreModel(
                small.score_model(root / 'cost', 'cost', seed=2)
            ),
        },
        rows=2,
        tokens=64,
        capacity=6,
    )
    yield made
    made.close()


@pytest.fixture(scope='module')
def client(model, judge):
    """Of a server with all of these."""
    return asking.client_of(app_lib.Served({'talker': model}, judge, LIMITS))
