"""A policy trained on real rows, exported and read by `transformers` on PyTorch."""

import pytest
import torch
import transformers

from beaver_jax.chat import __main__ as chat
from beaver_jax.chat import talker as talker_lib
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.rollout import sampling
from tests import micro
from tests import real

NEW_TOKENS = 40
QUESTIONS = (
    'What is a good name for a cat?',
    'How do I bake bread?\nI have no oven.',
    'Why is the sky blue? Tell it as a story about Tim and his red ball.',
)


@pytest.fixture(scope='module')
def policy(shared_data, tmp_path_factory):
    """The stage directory of a policy that a whole chain on real rows has trained."""
    directory = tmp_path_factory.mktemp('real')
    command = real.arguments(shared_data, directory)
    micro.finished(micro.process('beaver_jax.train', command))
    return directory / 'run' / 'ppo_lag'


@pytest.fixture(scope='module')
def reference(policy):
    """(tokenizer, model) as somebody without this package loads them."""
    directory = policy / 'model'
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32
    )
    return transformers.AutoTokenizer.from_pretrained(directory), model


def _generate(reference, text):
    """(prompt ids, response ids) of greedy decoding, without the EOS."""
    tokenizer, model = reference
    inputs = tokenizer(text, return_tensors='pt')
    prompt = inputs['input_ids'][0].tolist()
    found = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    response = found[0, len(prompt) :].tolist()
    return prompt, [token for token in response if token != tokenizer.eos_token_id]


@pytest.mark.parametrize('question', QUESTIONS)
def test_transformers_gives_the_greedy_tokens_of_chat(policy, reference, question):
    talker = talker_lib.Talker(
        str(policy),
        sampling.Sampler(temperature=0.0),
        max_new_tokens=NEW_TOKENS,
        seed=0,
    )
    ids = tokenizer_lib.encode_prompt(
        talker.tokenizer, (question,), max_length=talker.context
    )
    eos = reference[0].eos_token
    prompt, expected = _generate(reference, template.format_prompt((question,), eos))
    assert ids == prompt
    *_, response = talker.stream(ids)
    assert response == expected
    assert len(response) > 3


def test_transformers_gives_the_text_that_chat_prints(policy, reference, capsys):
    tokenizer, question = reference[0], QUESTIONS[0]
    text = template.format_prompt((question,), tokenizer.eos_token)
    prompt, response = _generate(reference, text)
    before, both = tokenizer.batch_decode([prompt, prompt + response])
    greedy = ['--temperature', '0', '--max_new_tokens', str(NEW_TOKENS)]
    chat.main([str(policy), '--prompt', question, *greedy])
    assert capsys.readouterr().out == both.removeprefix(before) + '\n'


def test_training_has_moved_the_weights_and_kept_their_names(shared_data, reference):
    # So that equal tokens are not those of the model that training began with.
    untouched = transformers.AutoModelForCausalLM.from_pretrained(
        real.model(shared_data), dtype=torch.float32
    )
    before, after = untouched.state_dict(), reference[1].state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].shape == after[name].shape for name in before)
    name = 'model.layers.0.self_attn.q_proj.weight'
    assert not torch.equal(before[name], after[name])
