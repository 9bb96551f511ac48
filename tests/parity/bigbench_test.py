"""A BIG-bench task's scores beside a direct computation by transformers on PyTorch."""

import json

import pytest
import torch
import transformers

from beaver_jax.evaluate import bigbench
from beaver_jax.evaluate import language_model
from beaver_jax.evaluate.bigbench import tasks
from tests.serve import small

LIMIT = 10
WORDS = ('bread', 'flour', 'dough', 'book', 'who', 'knead')
TASK = {
    'name': 'words',
    'metrics': ['multiple_choice_grade', 'exact_str_match'],
    'task_prefix': 'See the words.',
    'stop_string': 'e',
    'append_choices_to_input': False,  # so that no prompt is cut
    'examples': [
        {
            'input': f'{WORDS[i]} {WORDS[i - 1]}',
            # Every choice has a score of its own, so that it matters which is taken.
            'target_scores': {f'{word} {i}': n / 8 for n, word in enumerate(WORDS)},
        }
        for i in range(6)
    ],
}


@pytest.mark.parametrize('shots', [0, 2])
def test_scores_are_those_of_a_direct_computation(shots, tmp_path):
    directory = small.language_model(tmp_path / 'model')
    file = tmp_path / 'task.json'
    file.write_text(json.dumps(TASK))
    ours = language_model.LanguageModel(directory, batch_size=4)
    results, rows = bigbench.run(ours, [tasks.read(file)], shots=shots, limit=LIMIT)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def logp(context, choice):
        # The prompt ends with a space, which belongs to the word behind it.
        start = len(tokenizer.encode(context.rstrip()))
        ids = torch.tensor([tokenizer.encode(context + choice)])
        with torch.no_grad():
            logps = theirs(ids).logits.log_softmax(-1)[0, :-1]
        return logps.gather(1, ids[0, 1:, None])[start - 1 :].sum().item()

    def answer(context):
        ids = torch.tensor([tokenizer.encode(context)])
        with torch.no_grad():
            out = theirs.generate(
                ids,
                do_sample=False,
                max_new_tokens=LIMIT,
                eos_token_id=tokenizer.eos_token_id,
            )
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text.partition('e')[0].strip()

    grades = []
    for row, example in zip(rows, TASK['examples'], strict=True):
        scores = example['target_scores']
        expected = {choice: logp(row['prompt'], choice) for choice in scores}
        assert row['logps'] == pytest.approx(expected, abs=1e-4)
        grades.append(scores[max(expected, key=expected.get)])
        assert row['answer'] == answer(row['prompt'])
    assert len({row['answer'] for row in rows}) > 1
    found = results['words']['metrics']
    assert found['multiple_choice_grade']['value'] == sum(grades) / 6
    assert found['exact_str_match']['value'] == 0  # of random weights
