"""What a model is shown of an example, and what its answer counts as."""

from collections.abc import Sequence
import re

import numpy as np

from beaver_jax.evaluate.bigbench import tasks

NEWLINE = '\n'


def choices(task: tasks.Task, index: int, seed: int) -> list[str]:
    """The choices of an example in an order of its own, in which none is favoured."""
    ordered = sorted(task.examples[index].scores)
    order = np.random.default_rng([seed, index]).permutation(len(ordered))
    return [ordered[i] for i in order]


def question(task: tasks.Task, index: int, seed: int) -> str:
    """An example up to where its answer begins."""
    shown = choices(task, index, seed) if task.append_choices_to_input else []
    return ''.join(
        [
            task.example_input_prefix,
            task.examples[index].input,
            *(task.choice_prefix + choice for choice in shown),
            task.example_output_prefix,
        ]
    )


def prompt(task: tasks.Task, index: int, shots: int, seed: int) -> str:
    """An example behind the task's prefix and so many others with their answers.

    Which others, and the order of choices, depend on seed and index alone.
    """
    drawn = _others(len(task.examples), index, shots, seed) if shots else []
    texts = [question(task, i, seed) + task.examples[i].targets[0] for i in drawn]
    texts.append(question(task, index, seed))
    return task.task_prefix + task.few_shot_example_separator.join(texts)


def _others(count: int, index: int, shots: int, seed: int) -> list[int]:
    """So many of the examples without one; as much work as there are shots."""
    random = np.random.default_rng([seed, index, 1])
    drawn = random.choice(count - 1, shots, replace=False)
    return [int(i) + (i >= index) for i in drawn]


def stops(task: tasks.Task) -> tuple[str, ...]:
    """Texts that end an answer: the task's, or a line's end if answers are of one."""
    if task.stop_string:
        return (task.stop_string,)
    targets = [target for one in task.examples for target in one.targets]
    return () if any(NEWLINE in target for target in targets) else (NEWLINE,)


def answer(task: tasks.Task, text: str, ends: Sequence[str]) -> str:
    """What of a generated text is compared with the targets.

    It ends before any of `ends`, those of `stops`; of that what `output_regex` finds
    first, or its first group; without space around it.
    """
    for stop in ends:
        text = text.partition(stop)[0]
    if task.output_regex is not None:
        found = re.search(task.output_regex, text)
        text = '' if found is None else (found[1] if found.groups() else found[0]) or ''
    return text.strip()


def is_target(text: str, targets: Sequence[str]) -> bool:
    """Whether an answer is one of the targets, but for space around them."""
    return text in {target.strip() for target in targets}
