"""The template's exact strings."""

import pytest

from beaver_jax.data import template


def test_one_turn():
    assert (
        template.format_prompt(('How are you?',), '</s>')
        == 'BEGINNING OF CONVERSATION: USER: How are you? ASSISTANT:'
    )


def test_earlier_answers_end_with_eos_and_no_space():
    assert template.format_prompt(('Hi', 'Hello.', 'Bye'), '</s>') == (
        'BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:Hello.</s>USER: Bye ASSISTANT:'
    )


def test_braces_in_a_question_are_plain_text():
    assert 'USER: {input} {0} ASSISTANT:' in template.format_prompt(
        ('{input} {0}',), ''
    )


@pytest.mark.parametrize('turns', [(), ('Hi', 'Hello.'), ('a', 'b', 'c', 'd')])
def test_an_even_number_of_turns_is_an_error(turns):
    with pytest.raises(ValueError, match=f'{len(turns)} turns'):
        template.format_prompt(turns, '</s>')


def test_a_bare_string_is_not_taken_for_its_letters():
    with pytest.raises(ValueError, match='pass a tuple'):
        template.format_prompt('abc', '</s>')
