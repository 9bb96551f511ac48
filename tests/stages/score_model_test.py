"""Score models outside of a run, against their definition."""

import jax.numpy as jnp
import pytest

from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.stages import score_model
from tests.serve import small

TURNS = ['Who is there?', 'I cannot say.', 'Why?', 'See the sky.']


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp('scores')
    return {
        'reward': small.score_model(root / 'reward', 'reward'),
        'harm': small.score_model(root / 'cost', 'cost', seed=2),
    }


@pytest.fixture(scope='module')
def models(paths):
    return {name: score_model.ScoreModel(path) for name, path in paths.items()}


def score(path, turns):
    """The end score of a conversation alone, without padding."""
    tokenizer = tokenizer_lib.load(path)
    model, params, _ = hf.load_score_model(path)
    pieces = tokenizer_lib.encode_turns(tokenizer, turns)
    ids = jnp.array([[token for piece in pieces for token in piece]])
    scores = model.apply({'params': params}, ids, jnp.ones(ids.shape, bool))
    return float(scores[0, -1, 0])


@pytest.mark.parametrize('turns', [TURNS, TURNS[:2], TURNS * 2], ids=len)
def test_what_is_told_is_the_end_score_of_the_conversation(paths, models, turns):
    reward, cost = (score(path, turns) for path in paths.values())
    safe = 'unsafe' if cost > 0 else 'safe'
    assert score_model.told(models, turns) == (
        f'reward {reward:.2f}, cost harm {cost:.2f}, {safe}'
    )


def test_an_answer_that_was_cut_has_no_eos(models):
    model = models['reward']
    ids = model.encode(TURNS)
    assert ids[-1] == model.tokenizer.eos_token_id
    assert model.encode(TURNS, ended=False) == ids[:-1]
    (cut,) = model.score([ids[:-1]], 64)
    told = score_model.told({'reward': model}, TURNS, ended=False)
    assert told == f'reward {cut[0]:.2f}'


def test_nothing_that_has_not_ended_is_no_answer(models):
    one = {'reward': models['reward']}
    assert score_model.told(one, ['Why?', ''], ended=False) == 'no answer to score'
    assert score_model.told(one, ['Why?', '']).startswith('reward ')


def test_costs_of_both_signs_are_told_apart(models):
    found = {
        score_model.told({'harm': models['harm']}, [question, 'See the sky.'])
        for question in ('Who?', 'Why?', 'See', 'How', 'I cannot say.', 'the sky')
    }
    for told in found:
        number, word = told.removeprefix('cost harm ').split(', ')
        assert word == ('unsafe' if float(number) > 0 else 'safe')
    assert {told.split(', ')[1] for told in found} == {'safe', 'unsafe'}


def test_of_a_long_conversation_the_oldest_turns_are_not_seen(paths, models):
    one = {'reward': models['reward']}
    long = TURNS * 30
    kept = long
    while len(models['reward'].encode(kept)) > models['reward'].positions:
        kept = kept[2:]
    assert 2 < len(kept) < len(long)
    assert score_model.told(one, long) == f'reward {score(paths["reward"], kept):.2f}'


def test_an_answer_that_is_too_long_is_told(models):
    turns = ['Why?', 'See the sky. ' * 200]
    count = len(models['harm'].encode(turns))
    told = score_model.told({'harm': models['harm']}, turns)
    assert told == f'cost harm: {count} tokens are more than its 256'
