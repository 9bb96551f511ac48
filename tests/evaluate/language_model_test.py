"""What a language model says of texts, and how it goes on, without its neighbours."""

import json
import shutil

import jax
import numpy as np
import pytest

from beaver_jax.evaluate import language_model
from beaver_jax.rollout import sampling
from tests import tiny
from tests.serve import small

GREEDY = sampling.Sampler(temperature=0.0)
# One shape for all: few programs.
LENGTH, LIMIT = 40, 8


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return small.language_model(tmp_path_factory.mktemp('model') / 'm')


@pytest.fixture(scope='module')
def model(directory):
    return language_model.LanguageModel(directory, batch_size=3, max_length=LENGTH)


@pytest.fixture(scope='module')
def logps_of():
    """What the same parameters say of the tokens behind each of a text, [T, V]."""
    decoder, params = tiny.causal_lm(0, vocab_size=small.VOCABULARY, max_positions=256)
    apply = jax.jit(decoder.apply)

    def find(text):
        tokens = np.zeros((1, LENGTH), np.int32)
        tokens[0, : len(text)] = text
        found, _ = apply(
            {'params': params}, tokens, np.arange(LENGTH)[None] < len(text)
        )
        return np.asarray(jax.nn.log_softmax(found[0]))

    return find


def ids(count, seed):
    return np.random.default_rng(seed).integers(5, 120, count).tolist()


def test_scores_are_sums_over_the_continuation_whatever_stands_beside(model, logps_of):
    pairs = [(ids(n, n), ids(n % 5 + 1, n + 50)) for n in (1, 3, 30, 36, 60)]
    said = model.score(pairs)
    for (before, behind), one in zip(pairs, said, strict=True):
        whole = [*before, *behind][-LENGTH - 1 :]
        logps = logps_of(whole[:-1])
        last = np.arange(len(whole) - 1 - len(behind), len(whole) - 1)
        assert one.logp == pytest.approx(logps[last, behind].sum(), abs=1e-4)
        assert one.greedy == bool(np.all(logps[last].argmax(-1) == behind))


def test_greedy_continuations_are_the_likeliest_tokens(model, logps_of):
    # The last 32 tokens of a prompt leave room for 8 of 40.
    asked = [ids(n, n) for n in (1, 4, 9, 32, 60)]
    found = model.generate([language_model.Prompt(one, LIMIT, GREEDY) for one in asked])
    kept = [one[-32:] for one in asked]
    for before, behind in zip(kept, found, strict=True):
        likeliest = logps_of([*before, *behind]).argmax(-1)
        assert behind == likeliest[len(before) - 1 :][: len(behind)].tolist()
        assert len(behind) == LIMIT or behind[-1] in model.texts.end_ids
    said = model.score(list(zip(kept, found, strict=True)))
    assert [one.greedy for one in said] == [True] * 5


def test_a_stop_string_ends_with_the_token_that_completes_it(model):
    prompt = language_model.Prompt(ids(9, 9), LIMIT, GREEDY)
    (whole,) = model.generate([prompt])
    text = model.texts.decode(whole, special=True)
    stop = text[3:5]
    (found,) = model.generate([prompt._replace(stop=('no such text', stop))])
    assert found == whole[: len(found)] and len(found) < len(whole)
    assert stop in model.texts.decode(found, special=True)
    assert stop not in model.texts.decode(found[:-1], special=True)


def test_every_end_that_the_model_names_ends_a_text(directory, model, tmp_path):
    prompt = language_model.Prompt(ids(9, 9), LIMIT, GREEDY)
    (whole,) = model.generate([prompt])
    end = next(i for i in range(2, LIMIT) if whole[i] not in whole[:i])
    copy = shutil.copytree(directory, tmp_path / 'm')
    named = {'eos_token_id': [whole[end], 7]}
    (copy / 'generation_config.json').write_text(json.dumps(named))
    ended = language_model.LanguageModel(str(copy), batch_size=3, max_length=LENGTH)
    assert ended.generate([prompt]) == [whole[: end + 1]]
    eos = model.texts.tokenizer.eos_token_id
    assert set(ended.texts.end_ids) == {whole[end], 7, eos}


def test_samples_are_those_of_the_seed(directory, model):
    drawn = sampling.Sampler(temperature=1.5)
    prompts = [language_model.Prompt(ids(5, 1), LIMIT, drawn)] * 4
    found = model.generate(prompts)
    assert found == model.generate(prompts)
    assert len({tuple(one) for one in found}) == 4  # each has numbers of its own
    one = sampling.Sampler(temperature=1.5, top_k=1)
    likeliest = model.generate([prompts[0]._replace(sampler=one)])
    assert likeliest == model.generate([prompts[0]._replace(sampler=GREEDY)])
    other = language_model.LanguageModel(
        directory, batch_size=3, max_length=LENGTH, seed=1
    )
    assert other.generate(prompts) != found


def test_pairs_are_cut_where_the_whole_text_lets_them(model):
    texts = model.texts
    bos = texts.first_id
    assert bos == texts.tokenizer.bos_token_id
    before, behind = texts.pair('knead the ', 'dough')
    # The space goes to the word: what stands there is the whole text's.
    assert [*before, *behind] == texts.encode('knead the dough')
    assert before == texts.encode('knead the') and before[0] == bos
    assert texts.decode(behind).strip() == 'dough'
    assert texts.pair('', 'dough') == ([bos], texts.encode('dough', special=False))
    # A BOS that is written is one id, and gets none before it.
    assert texts.encode('<s>dough') == texts.encode('dough')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'dtype': 'float64'}, "dtype='float64'; known: auto, float32, bfloat16"),
        ({'batch_size': 0}, 'batch_size=0; must be a whole number above 0'),
        ({'max_length': 257}, "from 2 to the model's 256 positions"),
        ({'max_length': 1.5}, 'max_length=1.5; must be a whole number'),
    ],
    ids=str,
)
def test_settings_that_are_refused(settings, message, directory):
    with pytest.raises(ValueError) as error:
        language_model.LanguageModel(directory, **settings)
    assert message in str(error.value)


def test_what_cannot_be_asked(model, tmp_path):
    with pytest.raises(ValueError, match='holds no model'):
        language_model.LanguageModel(str(tmp_path))
    for pair in (([], [5]), ([5], []), ([5], [5] * (LENGTH + 1))):
        with pytest.raises(ValueError, match='cannot be scored: both need tokens'):
            model.score([([5], [6]), pair])
    for tokens, limit in (([5], LENGTH), ([5], 0), ([], 5)):
        with pytest.raises(ValueError, match='the prompt needs a token at least'):
            model.generate([language_model.Prompt(tokens, limit, GREEDY)])
    assert model.generate([]) == model.score([]) == []
