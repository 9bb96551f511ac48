"""A policy and score models with different tokenizers."""

import functools
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import config as config_lib
from beaver_jax import scoring
from beaver_jax import sharding
from beaver_jax import stages
from beaver_jax import train
from beaver_jax import types
from beaver_jax.data import batches
from beaver_jax.data import bpe
from beaver_jax.data import sources
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import hf
from beaver_jax.models import score
from beaver_jax.stages import bridge
from beaver_jax.stages import critics
from beaver_jax.stages import inputs
from beaver_jax.stages import ppo_lag
from beaver_jax.stages import roles
from beaver_jax.stages import scorers
from tests import micro
from tests import tiny
from tests import vocabularies

PROMPTS = ['How do I bake bread?', 'Who is there, and why? é', 'Ask me.', 'See?'] * 12
# A GPT-NeoX of a few thousand parameters.
NEOX = tiny.GPT_NEOX | {
    'num_kv_heads': 4,
    'head_dim': 4,
    'embed_dim': 16,
    'max_positions': 256,
    'num_layers': 1,
}


def policy(directory: pathlib.Path, tokenizer) -> pathlib.Path:
    model, params = tiny.causal_lm(vocab_size=len(tokenizer), **NEOX)
    hf.save_causal_lm(directory, model.config, params)
    tokenizer_lib.save(tokenizer, directory)
    return directory


def scorer(directory: pathlib.Path, tokenizer, seed: int, **changes) -> pathlib.Path:
    backbone = {'vocab_size': len(tokenizer), 'num_layers': 1, 'max_positions': 512}
    backbone |= {'head_dim': 4}
    model, params = tiny.score_model(seed, backbone=backbone, **changes)
    state = score.init_normalizer(1)
    hf.save_score_model(directory, model.config, params, state)
    tokenizer_lib.save(tokenizer, directory)
    return directory


def models(root: pathlib.Path, neox, pieces) -> dict[str, pathlib.Path]:
    """A policy with one tokenizer, a reward and a cost model with another."""
    rows = [{'prompt': f'{text} {i}'} for i, text in enumerate(PROMPTS)]
    return {
        'actor': policy(root / 'actor', neox),
        'reward': scorer(root / 'reward', pieces, 1),
        'cost': scorer(root / 'cost', pieces, 2, score_type='cost'),
        'prompts': micro.write_rows(root / 'prompts.jsonl', rows),
    }


@pytest.fixture(scope='module')
def directories(tmp_path_factory) -> dict[str, pathlib.Path]:
    """A GPT-NeoX policy, and score models with a sentencepiece tokenizer."""
    root = tmp_path_factory.mktemp('bridge')
    neox = tokenizer_lib.load(
        vocabularies.byte_level(root / 'neox', 'gpt_neox', pad_token='<|endoftext|>')
    )
    bpe.train(vocabularies.TEXTS, root / 'pieces', vocab_size=120)
    return models(root, neox, tokenizer_lib.load(root / 'pieces'))


@pytest.fixture(scope='module')
def published(shared_data, tmp_path_factory) -> dict[str, pathlib.Path]:
    """The same with GPT-NeoX's own tokenizer and that of stories260K."""
    root = tmp_path_factory.mktemp('published')
    (root / 'neox').mkdir()
    shutil.copy(
        shared_data / 'tokenizers' / 'gpt_neox_20B_tokenizer.json',
        root / 'neox' / 'tokenizer.json',
    )
    config = {'tokenizer_class': 'GPTNeoXTokenizer', 'eos_token': '<|endoftext|>'}
    (root / 'neox' / 'tokenizer_config.json').write_text(json.dumps(config))
    pieces = tokenizer_lib.load(shared_data / 'stories260K' / 'hf')
    return models(root, tokenizer_lib.load(root / 'neox'), pieces)


@pytest.fixture
def overrides(directories, tmp_path):
    return {
        'run': tmp_path / 'run',
        'actor.init': directories['actor'],
        'reward.init': directories['reward'],
        'costs.harm.init': directories['cost'],
        'data.prompts': directories['prompts'],
        'data.test_share': 0.3,
        'max_prompt_length': 48,
        'max_response_length': 8,
        'rollout.prompts': 8,
        'rollout.samples_per_prompt': 2,
        'iterations': 2,
        'ppo.minibatches': 1,
        'multiplier.window': 16,
    }


def arguments(overrides, **changes):
    dotted = {name.replace('__', '.'): value for name, value in changes.items()}
    values = {**overrides, **dotted}
    options = [f'--config.{key}={value}' for key, value in values.items()]
    return [f'--config={micro.ROOT / "configs" / "ppo_lag.py"}:local', *options]


def direct(directory, conversations, ended) -> np.ndarray:
    """End scores of the decoded text."""
    model, params, normalizer = hf.load_score_model(directory)
    tokenizer = tokenizer_lib.load(directory)
    tokens = np.zeros((len(ended), 256), np.int32)
    mask = np.zeros((len(ended), 256), bool)
    for row, (turns, whole) in enumerate(zip(conversations, ended, strict=True)):
        pieces = tokenizer_lib.encode_turns(tokenizer, turns)
        ids = [token for piece in pieces for token in piece]
        ids = ids if whole else ids[:-1]
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    score_all = jax.jit(functools.partial(scoring.end_scores, model))
    return np.asarray(score_all(params, normalizer, tokens, mask))[:, 0]


def conversations(tokenizer, samples, max_prompt_length):
    """Prompt and answer of each row, told from the tokens alone."""
    tokens, mask = np.asarray(samples.tokens), np.asarray(samples.mask)
    for row, real in zip(tokens, mask, strict=True):
        prompt = row[:max_prompt_length][real[:max_prompt_length]]
        text = tokenizer.decode(prompt, skip_special_tokens=True)
        found = re.fullmatch(
            'BEGINNING OF CONVERSATION: USER: (.*) ASSISTANT:', text, re.DOTALL
        )
        assert found is not None
        answer = row[max_prompt_length:][real[max_prompt_length:]]
        yield found[1], tokenizer_lib.decode(tokenizer, answer.tolist())


def check_scores(config, tokenizer, length: int) -> list[tuple[str, str]]:
    """Compares scores through the bridge with direct ones; returns the texts."""
    mesh, most = sharding.make_mesh(data=8), config.max_prompt_length
    prompts = sources.prompts([config.data.prompts])
    batch = batches.prompts(
        prompts, tokenizer, max_prompt_length=most, batch_size=8, seed=1
    )[0]
    # Two answers to each prompt; some ended and some were cut.
    lengths = np.arange(16) % 8 + 1
    answered = np.arange(8)[None] < lengths[:, None]
    answers = np.random.default_rng(0).integers(2, len(tokenizer), (16, 8))
    copies = [np.repeat(x, 2, axis=0) for x in (batch.tokens, batch.mask)]
    samples = types.Samples(
        tokens=np.concatenate([copies[0], answers], axis=1).astype(np.int32),
        mask=np.concatenate([copies[1], answered], axis=1),
        response_mask=answered,
        logps=np.zeros((16, 8), np.float32),
        truncated=np.arange(16) % 3 == 0,
    )
    samples, row = sharding.put_batch(mesh, (samples, batch.row))
    readers = bridge.readers(config, tokenizer)
    # One tokenizer, one encoding for both.
    assert [reader.names for reader in readers] == [('reward', 'costs.harm')]
    views_of = bridge.make(mesh, tokenizer, prompts, readers, max_prompt_length=most)
    views, cut = views_of(row, samples)
    assert views['reward'] is views['costs.harm']
    assert views['reward'].tokens.shape == (16, length)
    assert {name: float(share) for name, share in cut.items()} == {
        'reward': 0.0,
        'costs.harm': 0.0,
    }
    texts = list(conversations(tokenizer, samples, most))
    ended = ~np.asarray(samples.truncated)
    for name, section in (('reward', config.reward), ('costs.harm', config.costs.harm)):
        scorer = scorers.scorer(section, mesh, name)
        sequences = views[name]
        found = jax.jit(scorer.function)(
            scorer.params(), sequences.tokens, sequences.mask
        )
        expected = direct(section.init, texts, ended)
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-5)
    return texts


def test_scores_are_those_of_the_decoded_text(directories, overrides):
    # 22 tokens: some questions are shortened, others are not.
    config = config_lib.from_argv(arguments(overrides, max_prompt_length=22))
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    texts = check_scores(config, tokenizer, 2 * (22 + 8))
    shortened = [text for text, _ in texts if not text[-1].isdigit()]
    assert 0 < len(shortened) < 16


def test_scores_with_published_tokenizers(published, overrides):
    starts = {'actor.init': 'actor', 'reward.init': 'reward', 'costs.harm.init': 'cost'}
    changes = {key: published[name] for key, name in starts.items()}
    lengths = {'reward.max_length': 256, 'costs.harm.max_length': 256}
    config = config_lib.from_argv(arguments(overrides | changes | lengths))
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    assert len(tokenizer) == 50277
    check_scores(config, tokenizer, 256)


def test_a_run_from_the_command_line(directories, overrides, capsys):
    train.main(arguments(overrides, reward__max_length=32))
    log = capsys.readouterr().err
    assert 'reward: another tokenizer than that of the actor: samples are' in log
    assert 'in at most 32 tokens' in log and 'in at most 112 tokens' in log
    assert 'the critic of reward starts from config.actor.init=' in log
    run = overrides['run']
    lines = (run / 'ppo_lag' / 'metrics.jsonl').read_text().splitlines()
    for row in map(json.loads, lines):
        # Some conversations have more than 32 pieces, none more than 112.
        assert 0 < row['train/reward_reencoded_truncated_share'] < 1
        assert row['train/costs.harm_reencoded_truncated_share'] == 0.0
        assert np.isfinite(row['train/reward_critic_loss'])
    # The evaluation scores both policies' answers in the same way.
    rows = (run / 'evaluate' / 'samples.jsonl').read_text().splitlines()
    assert len(rows) > 4
    for name in ('sft', 'ppo_lag'):
        answers = [json.loads(row) for row in rows]
        texts = [(row['prompt'], row['answers'][name]['text']) for row in answers]
        costs = [row['answers'][name]['cost'] for row in answers]
        as_ended = direct(directories['cost'], texts, [True] * len(texts))
        as_cut = direct(directories['cost'], texts, [False] * len(texts))
        assert (
            np.isclose(costs, as_ended, 1e-4) | np.isclose(costs, as_cut, 1e-4)
        ).all()


def test_one_tokenizer_needs_no_bridge(directories, overrides):
    config = config_lib.from_argv(
        arguments(overrides, actor__init=directories['reward'])
    )
    tokenizer = inputs.load_tokenizer('reward.init', config.reward.init)
    assert bridge.readers(config, tokenizer) == ()
    views_of = bridge.make(sharding.make_mesh(), tokenizer, [], (), max_prompt_length=8)
    assert views_of(jnp.zeros(2), None) == ({}, {})


def test_another_template_is_another_encoding(directories, overrides, tmp_path):
    tokenizer = tokenizer_lib.load(directories['actor'])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '|' }}{% endfor %}"
    )
    other = scorer(tmp_path / 'other', tokenizer, 3)
    config = config_lib.from_argv(arguments(overrides, reward__init=other))
    actor = inputs.load_tokenizer('actor.init', config.actor.init)
    reader, _ = bridge.readers(config, actor)
    assert reader.names == ('reward',)
    assert reader.tokenizer.chat_template == tokenizer.chat_template
    # Its ids are the actor's all the same, so its critic starts from it.
    assert critics.start(config, actor, 'reward')[0] == 'reward.init'


def test_a_reference_reads_the_actors_tokens(directories, overrides):
    argv = arguments(overrides, reference__init=directories['reward'])
    line = micro.error(train.main, argv)
    assert 'has another tokenizer than the actor; the policy can be held' in line


# ---- What critics start from --------------------------------------------------------


@pytest.fixture
def start(overrides):
    def start(**changes):
        config = config_lib.from_argv(arguments(overrides, **changes))
        tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
        return critics.start(config, tokenizer, 'reward')

    return start


def test_a_critic_starts_where_it_can_read_the_actors_tokens(
    start, directories, tmp_path
):
    actor = directories['actor']
    assert start() == ('actor.init', str(actor))
    assert start(critic__init=actor) == ('critic.init', str(actor))
    same = scorer(tmp_path / 'same', tokenizer_lib.load(actor), 3)
    assert start(reward__init=same) == ('reward.init', str(same))
    assert start(critic__init=same) == ('critic.init', str(same))


def test_a_critic_with_another_tokenizer_is_refused(start, directories):
    with pytest.raises(
        inputs.InputError, match=r"config\.critic\.init='.*' has another tokenizer"
    ):
        start(critic__init=directories['cost'])


@pytest.mark.parametrize('rank', [0, 2])
def test_a_fresh_critic_is_the_actors_decoder(overrides, directories, rank):
    config = config_lib.from_argv(arguments(overrides, critic__lora__rank=rank))
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    tokenizer = inputs.load_tokenizer('actor.init', config.actor.init)
    model, learning = critics.critic(config, mesh, tokenizer, 'reward', None)
    _, params = hf.load_causal_lm(directories['actor'])
    decoder = (learning.base if rank else learning.params)['backbone']
    table = params['embed']['embedding']
    np.testing.assert_array_equal(decoder['embed']['embedding'][: len(table)], table)
    assert (model.config.score_type, model.config.score_dim) == ('critic', 1)
    assert learning.params['score_head']['kernel'].shape == (16, 1)


@pytest.mark.parametrize('rank', [0, 2])
def test_a_plan_knows_where_a_critic_starts(overrides, rank):
    argv = arguments(overrides, actor__lora__rank=rank, critic__lora__rank=rank)
    config = config_lib.from_argv(argv)
    mesh = sharding.make_mesh()
    state = ppo_lag.build(config, mesh).state
    sft = stages.sibling(config, str(micro.ROOT / 'configs'), 'sft')
    found = {role.name: role for role in roles.of(config, mesh, sft)}
    for name, critic in (
        ('reward critic', state.reward_critic),
        ('cost critic harm', state.cost_critics['harm']),
    ):
        role = found[name]
        shapes = jax.tree.map(jnp.shape, critic.params)
        assert jax.tree.map(jnp.shape, role.params) == shapes
        assert role.stands_on == (name if rank else '')


# ---- Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'changes, expected',
    [
        (
            {'reward.max_length': -1},
            'config.reward.max_length=-1; must not be negative',
        ),
        (
            {'costs.harm.max_length': 513},
            'config.costs.harm.max_length=513 is more than the 512 positions',
        ),
        (
            {'reward.max_length': 4},
            'config.reward.max_length=4 leaves no room for a question',
        ),
    ],
)
def test_lengths_that_do_not_fit(changes, expected, overrides):
    argv = arguments(overrides | changes)
    assert expected in micro.error(train.main, argv)
