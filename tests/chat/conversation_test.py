"""Turns, commands, and several models in one conversation."""

import re
from typing import Any

import pytest

from beaver_jax.chat import conversation
from beaver_jax.chat import talker as talker_lib
from beaver_jax.rollout import sampling
from beaver_jax.stages import score_model


class Listener:
    """A talker that notes what it was asked."""

    def __init__(self, talker):
        self.tokenizer, self.context = talker.tokenizer, talker.context
        self.seen: list[str] = []
        self._talker = talker

    @property
    def ended(self):
        return self._talker.ended

    def stream(self, ids):
        self.seen.append(self.tokenizer.decode(ids, skip_special_tokens=True))
        return self._talker.stream(ids)


def converse(talkers, *said, score_models=None):
    """What was written by models of these names after all this was said."""
    lines, written = iter(said), []
    labels = {name: f'{name}: ' for name in talkers}

    def read(prompt):
        assert prompt == 'USER: '
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    conversation.Conversation(
        talkers,
        score_models or {},
        labels=labels,
        write=written.append,
        warn=written.append,
        clear=lambda: written.append('<cleared>'),
    ).converse(read)
    return ''.join(written)


def alone(talker, *said):
    """What one model wrote, and the prompts that it saw, decoded."""
    listener: Any = Listener(talker)
    return converse({'A': listener}, *said), listener.seen


def answers(written, name='A'):
    return re.findall(rf'^{name}: (.*)$', written, re.MULTILINE)


def test_turns_are_remembered_until_reset(talker):
    written, seen = alone(talker, 'one', 'two', '/reset', '', 'three', '/quit', 'no')
    assert len(seen) == 3
    assert ' one ' in seen[1] and ' two ' in seen[1]
    assert answers(written)[0] in seen[1]
    assert 'The conversation is forgotten.\n' in written
    assert ' one ' not in seen[2] and ' two ' not in seen[2]


def test_a_cleared_screen_forgets_nothing(talker):
    written, seen = alone(talker, 'one', '/clear', 'two')
    assert written.count('<cleared>') == 1
    assert ' one ' in seen[1]


def test_an_answer_is_made_anew_in_its_own_place(talker):
    _, seen = alone(talker, 'one', '/regenerate')
    assert seen[0] == seen[1]


def test_a_sampled_answer_differs_when_it_is_made_anew(model):
    sampler = sampling.Sampler(temperature=1.0)
    talker = talker_lib.Talker(model, sampler, max_new_tokens=12, seed=0)
    first, second = answers(alone(talker, 'one', '/regenerate')[0])
    assert first != second


def test_an_answer_that_is_broken_off_counts_as_far_as_it_came(talker):
    class Broken(Listener):
        def stream(self, ids):
            for response in super().stream(ids):
                yield response
                if len(self.seen) == 1 and len(response) == 6:
                    raise KeyboardInterrupt

    listener: Any = Broken(talker)
    first, second = answers(converse({'A': listener}, 'one', 'two', '/quit'))
    assert first and ' one ' in listener.seen[1] and ' two ' in listener.seen[1]
    assert first.strip() in listener.seen[1] and len(first) < len(second)


@pytest.mark.parametrize(
    'line, told',
    [
        ('/help', conversation.HELP),
        ('/unknown', f'/unknown is no command. {conversation.HELP}'),
        ('/regenerate', 'There is no answer yet.'),
        ('/score', 'There is no answer yet.'),
    ],
)
def test_commands_without_an_answer(talker, line, told):
    written, seen = alone(talker, line)
    assert written == told + '\n' + '\n'  # and the end of the input
    assert not seen


def test_help_has_every_command():
    assert conversation.HELP == (
        '/reset forgets the conversation, /regenerate answers anew, /clear clears the '
        'screen, /score reward and costs of the last answers, /help, /quit'
    )


def test_a_long_conversation_is_shortened_to_the_context(talker):
    # 128 positions less the 12 of an answer.
    assert talker.context == 116
    lengths = []

    class Counter(Listener):
        def stream(self, ids):
            lengths.append(len(ids))
            yield []

    listener: Any = Counter(talker)
    said = ['a question'] * 4 + ['word ' * 300, '/quit']
    lines = converse({'A': listener}, *said).splitlines()
    assert len(lengths) == 5
    told = [i for i, text in enumerate(lines) if text.startswith('(Cut to the 116 tok')]
    # Each before its answer, the first question's not among them.
    assert told and told[0] > 0 and lines[told[-1] + 1] == 'A: '
    assert max(lengths) <= 116
    assert lengths[0] < lengths[1]


# ---- Several models, and scores -----------------------------------------------------


def test_each_of_several_models_goes_on_from_its_own_answers(talker, chain):
    other = talker_lib.Talker(
        str(chain / 'sft'), sampling.Sampler(1.0), max_new_tokens=12, seed=3
    )
    a, b = Listener(talker), Listener(other)
    both: Any = {'A': a, 'B': b}
    written = converse(both, 'one', 'two', '/regenerate', '/reset', 'three')
    first, *_ = answers(written, 'B')
    assert len(a.seen) == len(b.seen) == 4
    assert a.seen[0] == b.seen[0] and a.seen[1] == a.seen[2]
    assert answers(written)[0] in a.seen[1] and first in b.seen[1]
    assert first != answers(written)[0] and first not in a.seen[1]
    assert ' one ' not in a.seen[3] + b.seen[3]
    # Side by side in the order of the names, and as each would answer alone.
    assert re.findall('^[AB](?=: )', written, re.MULTILINE) == ['A', 'B'] * 4
    assert answers(written) == answers(
        alone(talker, 'one', 'two', '/regenerate', '/reset', 'three')[0]
    )


@pytest.fixture(scope='module')
def score_models(chain):
    return {
        name: score_model.ScoreModel(str(chain / stage))
        for name, stage in ((score_model.REWARD, 'reward'), ('harm', 'cost'))
    }


def test_the_last_answers_are_scored(talker, score_models):
    written = converse({'A': talker}, 'one', 'two', '/score', score_models=score_models)
    said = [
        text
        for pair in zip(('one', 'two'), answers(written), strict=True)
        for text in pair
    ]
    # They were cut at their limit, and are scored as they are: without an EOS.
    assert f'({score_model.told(score_models, said, ended=False)})\n' in written
    two = converse(
        {'A': talker, 'B': talker}, 'one', '/score', score_models=score_models
    )
    told = score_model.told(score_models, ['one', answers(two)[0]], ended=False)
    assert two.endswith(f'(A: {told})\n(B: {told})\n\n')


@pytest.mark.parametrize('while_encoding', [False, True])
def test_an_answer_that_was_stopped_before_its_first_token_is_none(
    talker, score_models, monkeypatch, while_encoding
):
    def interrupted(*unused, **also):
        raise KeyboardInterrupt

    class Stopped(Listener):
        ended = True  # so did the answer before
        stream = interrupted

    if while_encoding:
        monkeypatch.setattr(conversation.tokenizer_lib, 'encode_prompt', interrupted)
    listener: Any = Stopped(talker)
    said = converse({'A': listener}, 'one', '/score', score_models=score_models)
    assert said.endswith('(no answer to score)\n\n')


def test_scoring_can_be_broken_off(talker, score_models, monkeypatch):
    def interrupted(*unused, **also):
        raise KeyboardInterrupt

    monkeypatch.setattr(score_model, 'told', interrupted)
    written = converse(
        {'A': talker}, 'one', '/score', '/regenerate', score_models=score_models
    )
    assert len(answers(written)) == 2  # the conversation went on


def test_scores_need_a_score_model(talker):
    written, _ = alone(talker, 'one', '/score')
    assert 'There is no score model; start with --reward or --cost.\n' in written
