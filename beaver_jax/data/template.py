"""The conversation template, in one place.

One turn, up to where the answer begins, and two turns, with `</s>` as the EOS string:

    BEGINNING OF CONVERSATION: USER: {u} ASSISTANT:
    BEGINNING OF CONVERSATION: USER: {u1} ASSISTANT:{a1}</s>USER: {u2} ASSISTANT:

No space stands between `ASSISTANT:` and the answer, and none after the EOS string. It
is the template of PKU's safe-rlhf, so its published models read the same text here.
"""

from collections.abc import Sequence

BEGIN = 'BEGINNING OF CONVERSATION: '
USER = 'USER: '
ASSISTANT = ' ASSISTANT:'
# The same as a chat template, which `transformers` and servers render: BOS first.
JINJA = (
    "{% if bos_token %}{{ bos_token }}{% endif %}{{ '" + BEGIN + "' }}"
    '{% for message in messages %}'
    "{% if message['role'] == 'user' %}"
    "{{ '" + USER + "' + message['content'] + '" + ASSISTANT + "' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('roles go user, assistant, user, …') }}{% endif %}"
    '{% endfor %}'
)
FORMATS = ('beaver', 'chat')


def check_turns(turns: Sequence[str]) -> None:
    """Raises `ValueError` unless `turns` goes user, assistant, ..., user."""
    if isinstance(turns, str):
        raise ValueError(f'turns={turns!r} is one string; pass a tuple of strings.')
    if len(turns) % 2 == 0:
        raise ValueError(
            f'{len(turns)} turns: a prompt goes user, assistant, ..., user and so has '
            'an odd number; add the last question or drop the last answer.'
        )


def format_user(text: str, *, first: bool) -> str:
    """One user turn, from after the EOS before it to where the answer begins."""
    return f'{BEGIN if first else ""}{USER}{text}{ASSISTANT}'


def format_prompt(turns: Sequence[str], eos: str) -> str:
    """The text of a whole prompt, up to where the last answer begins.

    Args:
        turns: texts that go user, assistant, ..., user.
        eos: the EOS string, which closes every earlier answer.

    Raises:
        ValueError: `turns` has an even number of texts.
    """
    check_turns(turns)
    return ''.join(
        format_user(text, first=i == 0) if i % 2 == 0 else text + eos
        for i, text in enumerate(turns)
    )
