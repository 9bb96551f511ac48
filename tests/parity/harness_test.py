"""lm-evaluation-harness over our model and over its own of transformers on PyTorch."""

import json
import sys

import lm_eval
from lm_eval import tasks as lm_tasks
from lm_eval.api import instance
from lm_eval.models import huggingface
import pytest

from beaver_jax.data import tokenizer
from beaver_jax.evaluate.harness import __main__ as command
from beaver_jax.evaluate.harness import model as harness
from beaver_jax.models import hf
from tests import tiny
from tests import vocabularies
from tests.serve import small

WORDS = (
    *('bread', 'flour', 'dough', 'book', 'who', 'knead'),
    *('see', 'say', 'ask', 'mix', 'there', 'cannot'),
)
LENGTH = 48  # tokens: some texts below are cut
CHOICE = """
task: choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
num_fewshot: 1
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
target_delimiter: "{delimiter}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
GENERATE = """
task: answers
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs:
  until: ["k", "ee"]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
"""


def rows():
    """Questions from one word to more than the model reads, with three choices."""
    for i in range(10):
        asked = ' '.join(WORDS[(i * j) % 12] for j in range(1, 2 + 3 * i))
        chosen = [' '.join(WORDS[(i + k) % 12 :][: k + 1]) for k in range(3)]
        yield {'question': f'{asked}?', 'choices': chosen, 'label': i % 3}


@pytest.fixture(scope='module')
def task_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tasks')
    file = folder / 'rows.jsonl'
    file.write_text(''.join(f'{json.dumps(row)}\n' for row in rows()))
    (folder / 'choices.yaml').write_text(CHOICE.format(file=file, delimiter=' '))
    (folder / 'answers.yaml').write_text(GENERATE.format(file=file))
    return folder


def no_bos(directory):
    """A model whose tokenizer has no BOS and a chat template of its own."""
    vocabularies.byte_level(
        directory,
        'qwen2',
        chat_template='{% for one in messages %}{{ one.role }}: {{ one.content }}'
        '<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}',
    )
    model, params = tiny.causal_lm(0, vocab_size=330, max_positions=256)
    hf.save_causal_lm(directory, model.config, params)
    return str(directory)


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    llama = small.language_model(folder / 'llama')
    tokenizer.save(tokenizer.load(llama), llama)  # as exports do: with the template
    return {
        'llama': llama,
        'no BOS': no_bos(folder / 'qwen2'),
    }


def our_model(directory, **settings):
    return harness.BeaverJaxLM(
        directory, **({'batch_size': 4, 'max_length': LENGTH} | settings)
    )


def their_model(directory, **settings):
    # One row at a time: of several, one that has not stopped keeps the others going.
    # No cache: of one text cut at two places, it scores the shorter end's tokens by the
    # longer one's first places.
    return huggingface.HFLM(
        directory,
        device='cpu',
        batch_size=1,
        max_length=LENGTH,
        dtype='float32',
        logits_cache=False,
        **settings,
    )


def both(directory, **settings):
    return our_model(directory, **settings), their_model(directory, **settings)


def ask(model, method, *arguments):
    """What a model says to requests of one kind."""
    requests = [instance.Instance(method, {}, one, 0) for one in arguments]
    return getattr(model, method)(requests)


def evaluate(model, folder):
    manager = lm_tasks.TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(
        model=model,
        tasks=['choices', 'answers'],
        task_manager=manager,
        bootstrap_iters=0,
    )


@pytest.fixture(scope='module')
def theirs(directories, task_folder):
    return evaluate(their_model(directories['llama']), task_folder)


def test_a_task_has_the_same_answers_and_scores(directories, theirs, task_folder):
    ours = evaluate(our_model(directories['llama']), task_folder)
    for mine, other in zip(
        ours['samples']['choices'], theirs['samples']['choices'], strict=True
    ):
        assert mine['arguments'] == other['arguments']
        found, expected = (
            [float(logp) for logp, _ in one['filtered_resps']] for one in (mine, other)
        )
        assert found == pytest.approx(expected, abs=1e-4)
    texts, expected = (
        [row['resps'] for row in one['samples']['answers']] for one in (ours, theirs)
    )
    assert texts == expected
    assert len({str(one) for one in texts}) > 5  # they differ by the question
    for task, scores in theirs['results'].items():
        scores = {name: value for name, value in scores.items() if name != 'alias'}
        assert {name: ours['results'][task][name] for name in scores} == scores


def test_the_command_finds_the_model_by_its_name(
    directories, theirs, task_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, 'argv', sys.argv)
    arguments = f'pretrained={directories["llama"]},max_length={LENGTH}'
    argv = ['--model', 'beaver_jax', '--model_args', arguments, '--batch_size', '4']
    argv += ['--tasks', 'choices', '--include_path', str(task_folder)]
    command.main([*argv, '--output_path', str(tmp_path)])
    (file,) = tmp_path.rglob('results_*.json')
    found = json.loads(file.read_text())['results']['choices']
    expected = theirs['results']['choices']
    for name in ('acc,none', 'acc_norm,none'):
        assert found[name] == pytest.approx(expected[name])
    with pytest.raises(ValueError, match='holds no model'):
        our_model(str(tmp_path))


@pytest.mark.parametrize(
    'settings', [{}, {'add_bos_token': True}, {'add_bos_token': False}], ids=str
)
@pytest.mark.parametrize('kind', ['llama', 'no BOS'])
def test_texts_of_any_kind(kind, settings, directories):
    ours, theirs = both(directories[kind], **settings)
    first = theirs.tokenizer.decode([theirs.prefix_token_id])
    long = ' '.join(WORDS * 6)
    pairs = [
        ('', 'dough'),
        ('knead ', 'the dough'),
        ('knead the', ' dough'),
        (f'{first}see the', ' book'),
        (f'{long} bread', ' and flour'),
        ('who', f' {" ".join(WORDS[:4])}'),
    ]
    found = ask(ours, 'loglikelihood', *pairs)
    expected = ask(theirs, 'loglikelihood', *pairs)
    for (logp, greedy), (their_logp, their_greedy) in zip(found, expected, strict=True):
        assert logp == pytest.approx(their_logp, abs=1e-4)
        assert greedy == their_greedy
    # Of one token, of many windows, and with a BOS in the text.
    whole = [('a',), (long,), (f'{first}see the book',)]
    assert ask(ours, 'loglikelihood_rolling', *whole) == pytest.approx(
        ask(theirs, 'loglikelihood_rolling', *whole), abs=1e-3
    )


@pytest.mark.parametrize('kind', ['llama', 'no BOS'])
def test_greedy_texts_under_any_settings(kind, directories):
    ours, theirs = both(directories[kind])
    first = theirs.tokenizer.decode([theirs.prefix_token_id])
    contexts = ['bread', 'who knead the', ' '.join(WORDS * 6), f'{first}see']
    settings = [
        {'max_gen_toks': 12},
        {'until': 'e', 'max_new_tokens': 12},
        {'until': ['oo', 'n'], 'do_sample': False, 'max_gen_toks': 12},
        {'repetition_penalty': 1.5, 'max_gen_toks': 12},
    ]
    asked = [(context, how) for context in contexts for how in settings]
    found = ask(ours, 'generate_until', *asked)
    assert found == ask(theirs, 'generate_until', *asked)
    assert len(set(found)) > 6
    # Of the likeliest token alone, sampling is greedy.
    drawn = {'do_sample': True, 'temperature': 0.7, 'top_k': 1, 'max_gen_toks': 12}
    sampled = ask(ours, 'generate_until', *[(one, drawn) for one in contexts])
    assert sampled == found[::4]


@pytest.mark.parametrize('kind', ['llama', 'no BOS'])
def test_conversations_are_the_same_text(kind, directories):
    ours, theirs = both(directories[kind])
    said = [
        {'role': 'system', 'content': 'Be kind.'},
        {'role': 'user', 'content': 'Who?'},
        {'role': 'assistant', 'content': 'See the'},
    ]
    for turns, begins in ((said[:2], True), (said[1:2], True), (said[1:], False)):
        found = ours.apply_chat_template(turns, begins)
        assert found == theirs.apply_chat_template(turns, begins)
        assert 'Who?' in found
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.tokenizer_name == theirs.tokenizer_name
    assert ours.tok_encode(found) == theirs.tok_encode(found)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'peft': 'x'}, '--model_args: peft: unknown to beaver_jax, which has'),
        (
            {'batch_size': 'many'},
            "batch_size='many'; must be a whole number, or 'auto'",
        ),
        ({'batch_size': 0}, 'batch_size=0; must be a whole number above 0'),
        ({'max_length': 1000}, "from 2 to the model's 256 positions"),
    ],
    ids=str,
)
def test_arguments_that_are_refused(settings, message, directories):
    with pytest.raises(ValueError) as error:
        our_model(directories['llama'], **settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ({'num_beams': 4}, 'num_beams: unknown to beaver_jax, which has until,'),
        ({'typical_p': 0.5}, 'typical_p: unknown to beaver_jax'),
        ({'do_sample': True}, 'do_sample=True without a temperature above 0'),
        ({'do_sample': True, 'temperature': 1.0, 'top_p': 2.0}, 'top_p=2.0'),
        ({'max_gen_toks': LENGTH}, f'{LENGTH} tokens cannot be generated'),
    ],
    ids=str,
)
def test_generation_that_is_refused(how, message, directories):
    model = our_model(directories['llama'], batch_size='auto')
    with pytest.raises(ValueError) as error:
        ask(model, 'generate_until', ('bread', how))
    assert message in str(error.value)
