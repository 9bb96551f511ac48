"""Who answers in the built-in world: one writer of demonstrations, and many of pairs.

Demonstrations are of mixed quality, as collected ones are. Pairs for preference data
come from a wider range, junk included: reinforcement learning searches for text that
the learned reward and cost misjudge, so these models must have seen bad text of every
kind that a policy can come upon.
"""

from collections.abc import Callable, Sequence
import itertools
from typing import TypeVar

import numpy as np

from beaver_jax.data import world_text
from beaver_jax.data.world_text import Topic

# Demonstrations: most who answer give one or two steps, and a third of those who leave
# room for a mistake make one. 78% answer a risky question as if it were any other, so
# about 0.39 of all demonstrations are harmful.
STEPS_SHARES = (0.35, 0.35, 0.2, 0.1)  # of 1, 2, 3 and 4 steps
MISTAKE_SHARE = 0.35
RISKY_DECLINED_SHARE = 0.22
BENIGN_DECLINED_SHARE = 0.03

# Pairs: the second answer is often the first one with a clause or two changed, because
# such pairs say best what is good and what is junk.
EDITED_SHARE = 0.5
GARBLED_SHARE = 0.04

T = TypeVar('T')
Writer = Callable[[Topic, np.random.Generator], list[str]]  # returns clauses


def demonstration(topic: Topic, rng: np.random.Generator) -> str:
    """A supervised answer: steps with an occasional mistake, or a refusal."""
    share = RISKY_DECLINED_SHARE if topic.risky else BENIGN_DECLINED_SHARE
    return compose((_decline if rng.random() < share else _attempt)(topic, rng))


def pair(topic: Topic, rng: np.random.Generator) -> tuple[str, str]:
    """Two answers of any quality, which may be equal."""
    first = _varied(topic, rng)
    edited = rng.random() < EDITED_SHARE
    second = _edit(first, rng) if edited else _varied(topic, rng)
    texts = [compose(clauses) for clauses in (first, second)]
    for i in range(2):
        if rng.random() < GARBLED_SHARE:
            texts[i] = _garble(texts[i], rng)
    return (texts[0], texts[1]) if rng.random() < 0.5 else (texts[1], texts[0])


def compose(clauses: Sequence[str]) -> str:
    """Clauses as text: a row of steps is one sentence, any other clause its own."""
    rows = itertools.groupby(clauses, key=lambda clause: ' the ' in clause)
    sentences = [
        sentence
        for is_steps, row in rows
        for sentence in ([', '.join(row)] if is_steps else row)
    ]
    return ' '.join(f'{text[0].upper()}{text[1:]}.' for text in sentences)


def _varied(topic: Topic, rng: np.random.Generator) -> list[str]:
    return _WRITERS[rng.choice(len(_WRITERS), p=_SHARES)](topic, rng)


def _attempt(topic: Topic, rng: np.random.Generator) -> list[str]:
    count = 1 + rng.choice(len(STEPS_SHARES), p=STEPS_SHARES)
    steps = _some(topic.steps, count, rng)
    if count < len(topic.steps) and rng.random() < MISTAKE_SHARE:
        wrong = steps if rng.random() < 0.5 else _other(topic, rng).steps
        steps.insert(rng.integers(count + 1), _one(wrong, rng))
    return steps


def _full(topic: Topic, rng: np.random.Generator) -> list[str]:
    natural = rng.random() < 0.7
    return list(topic.steps if natural else rng.permutation(topic.steps))


def _decline(topic: Topic, rng: np.random.Generator) -> list[str]:
    """A refusal, a referral, or both; needless where the topic is benign."""
    refusal = _one(world_text.REFUSALS, rng)
    both = [refusal, world_text.REFERRAL]
    return _one(([refusal], both, both, [world_text.REFERRAL]), rng)


def _decline_and_answer(topic: Topic, rng: np.random.Generator) -> list[str]:
    steps = _some(topic.steps, rng.integers(1, 5), rng)
    declined = _decline(topic, rng)
    return declined + steps if rng.random() < 0.7 else steps + declined


def _astray(topic: Topic, rng: np.random.Generator) -> list[str]:
    """A good answer to another question, more often one of the same kind."""
    rest = [t for t in world_text.TOPICS if t is not topic]
    other = _other(topic, rng) if rng.random() < 0.5 else _one(rest, rng)
    return _some(other.steps, rng.integers(1, 5), rng)


def _repeat(topic: Topic, rng: np.random.Generator) -> list[str]:
    """A good beginning that goes round in circles."""
    clauses = _one((_attempt, _full, _decline, _decline), rng)(topic, rng)[:3]
    return (clauses * 5)[: rng.integers(len(clauses) + 1, 6)]


def _ramble(topic: Topic, rng: np.random.Generator) -> list[str]:
    """On and on, with little regard to the question."""
    topics = [
        topic if rng.random() < 0.4 else _one(world_text.TOPICS, rng) for _ in 'ab'
    ]
    return [_one(_one(topics, rng).steps, rng) for _ in range(rng.integers(3, 8))]


def _word(topic: Topic, rng: np.random.Generator) -> list[str]:
    return [
        _one(('yes', 'no', 'sure', 'fine', 'well', 'hello', 'the', 'I', 'ask'), rng)
    ]


def _edit(clauses: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The same answer with one or two clauses doubled, replaced, spoilt or dropped."""
    edited = list(clauses)
    for _ in range(rng.integers(1, 3)):
        i, kind = rng.integers(len(edited)), rng.integers(5)
        if kind == 0:
            edited.insert(rng.integers(i, len(edited)) + 1, edited[i])
        elif kind == 1:
            edited[i] = _one(edited, rng)
        elif kind == 2:
            edited[i] = _one(_one(world_text.TOPICS, rng).steps, rng)
        elif kind == 3:
            verb = _one(_one(world_text.TOPICS, rng).verbs, rng)
            edited[i] = ' '.join([verb, *edited[i].split()[1:]])
        elif len(edited) > 1:
            del edited[i]
    return edited


def _garble(text: str, rng: np.random.Generator) -> str:
    """A text with its words shuffled, doubled, cut off or unpunctuated."""
    words = text.split()
    damage = rng.integers(4)
    if damage == 0:
        words = list(rng.permutation(words))
    elif damage == 1:
        words = [word for word in words for _ in range(rng.integers(1, 3))]
    elif damage == 2:
        words = words[: rng.integers(1, len(words) + 1)]
    else:
        words = [word.strip('.,') for word in words]
    return ' '.join(words)


def _some(
    steps: Sequence[str], count: int | np.integer, rng: np.random.Generator
) -> list[str]:
    """`count` different steps in their natural order."""
    return [steps[i] for i in sorted(rng.permutation(len(steps))[:count])]


def _one(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def _other(topic: Topic, rng: np.random.Generator) -> Topic:
    """Another topic of the same kind."""
    kind = world_text.RISKY if topic.risky else world_text.BENIGN
    return _one([t for t in kind if t is not topic], rng)


_WRITER_SHARES: dict[Writer, float] = {
    _attempt: 0.25,
    _full: 0.16,
    _astray: 0.17,
    _decline: 0.18,
    _decline_and_answer: 0.07,
    _repeat: 0.09,
    _ramble: 0.05,
    _word: 0.03,
}
_WRITERS = tuple(_WRITER_SHARES)
_SHARES = tuple(_WRITER_SHARES.values())
