"""Conversations in a tokenizer's own chat template.

The template is rendered with marks in place of what people say, and so taken apart:
what stands around each turn is the template's, and may hold special tokens; what is
said never does. An answer ends with the EOS that the template puts behind it; the rest
of what the template puts there belongs to the next turn, as no policy writes it.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools

from transformers import PreTrainedTokenizerBase

from beaver_jax.data import encoding

# No text holds these: private characters, and a space that templates which trim what
# is said take away.
MARK, SPACE = '\ue000{}\ue001', '\u2003'

# For templates that take a date, and else tell today's; what those of Llama 3 say
# without a clock.
DAY = '26 Jul 2024'
WAY_OUT = (
    'use --config.data.template=beaver, or remove the template from the directory '
    '(chat_template.jinja, or its entry in tokenizer_config.json).'
)


class TemplateError(ValueError):
    """A chat template that cannot be rendered or taken apart."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a template puts around the turns of a conversation."""

    texts: tuple[str, ...]  # before each turn, and behind the last one
    trims: tuple[bool, ...]  # whether spaces around each turn are taken away


def render(tokenizer: PreTrainedTokenizerBase, count: int) -> Rendered:
    """Takes the template apart for a conversation of some number of turns.

    Raises:
        TemplateError: it cannot be rendered, or does not show every turn once.
    """
    rules = f'{tokenizer.chat_template}{tokenizer.special_tokens_map}'
    return _render(tokenizer, rules, count)


# Every row asks anew. The key has all that a tokenizer's rules change.
@functools.lru_cache(maxsize=128)
def _render(tokenizer: PreTrainedTokenizerBase, rules: str, count: int) -> Rendered:
    del rules
    marks = [MARK.format(i) for i in range(count)]
    messages = [
        {'role': ('user', 'assistant')[i % 2], 'content': SPACE + mark + SPACE}
        for i, mark in enumerate(marks)
    ]
    try:
        rest = str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=count % 2 == 1,
                # Rows are to be the same on every day that a run goes on.
                date_string=DAY,
            )
        )
    except Exception as error:  # whatever the template's own code raises
        raise TemplateError(
            f'The chat template of {tokenizer.name_or_path} cannot be rendered '
            f'({type(error).__name__}: {error}); {WAY_OUT}'
        ) from error
    texts, trims = [], []
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise TemplateError(
                f'The chat template of {tokenizer.name_or_path} does not show each '
                f'turn once, in order; {WAY_OUT}'
            )
        trims.append(not before.endswith(SPACE))
        texts.append(before.removesuffix(SPACE))
        rest = rest.removeprefix(SPACE)
    return Rendered((*texts, rest), tuple(trims))


def end_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token that ends an answer in the template; None if none does."""
    behind = render(tokenizer, 2).texts[2]
    found = [token for token in encoding.special(tokenizer) if token in behind]
    return min(found, key=behind.index) if found else None


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[str]]
) -> list[list[encoding.Ids]]:
    """Ids of each turn of conversations that go user, assistant, user, ...

    The EOS of an answer stands in its turn; see `tokenizer.encode_turns`.

    Raises:
        TemplateError: see `render`.
    """
    said = [text for turns in conversations for text in _user_turns(tokenizer, turns)]
    users = iter(encoding.between(tokenizer, said))
    answers = [text for turns in conversations for text in turns[1::2]]
    assistants = iter(encode_answers(tokenizer, answers))
    found = []
    for turns in conversations:
        pieces = [next(assistants if i % 2 else users) for i in range(len(turns))]
        for i in range(2, len(turns), 2):
            # Behind the EOS, at which an answer's turn ends.
            pieces[i] = pieces[i][pieces[i].index(tokenizer.eos_token_id) + 1 :]
        found.append(pieces)
    return found


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]
) -> list[encoding.Ids]:
    """Ids of each answer after its prompt, and EOS.

    Raises:
        TemplateError: see `render`.
    """
    if not answers:
        return []
    frame, trims = answer_frame(tokenizer), render(tokenizer, 2).trims[1]
    texts = [
        frame.lead + (answer.strip() if trims else answer) + frame.trail
        for answer in answers
    ]
    head, *joint = encoding.between(
        tokenizer, [(frame.prompt, text, '') for text in ('', *texts)]
    )
    size = len(head)
    found = [ids[size:] if ids[:size] == head else None for ids in joint]
    # Where a token spans the border.
    left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
    apart = iter(encoding.after(tokenizer, [(text, ('\n',)) for text in left]))
    eos = encoding.as_ids([tokenizer.eos_token_id])
    return [(next(apart) if ids is None else ids) + eos for ids in found]


def unframed(tokenizer: PreTrainedTokenizerBase, answer: str) -> str:
    """A decoded answer without the spaces that the template puts around it."""
    frame = answer_frame(tokenizer)
    return answer.removeprefix(frame.lead).removesuffix(frame.trail)


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around an answer, between the prompt's end and the EOS."""

    prompt: str  # the prompt's end, behind the question
    lead: str  # between the prompt's end and the answer, such as a space
    trail: str  # between the answer and the EOS


def answer_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What the template puts around an answer.

    Raises:
        TemplateError: see `render`.
    """
    prompt = render(tokenizer, 1).texts[1]
    *_, before, behind = render(tokenizer, 2).texts
    lead = before.removeprefix(prompt) if before.startswith(prompt) else ''
    trail, found, _ = behind.partition(tokenizer.eos_token)
    return Frame(prompt, lead, trail if found else '')


def _user_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """The user's turns with what stands before and behind them."""
    rendered, lead = render(tokenizer, len(turns)), answer_frame(tokenizer).lead
    for i in range(0, len(turns), 2):
        said = turns[i].strip() if rendered.trims[i] else turns[i]
        before, behind = rendered.texts[i], rendered.texts[i + 1]
        if i + 1 < len(turns) and lead:
            behind = behind.removesuffix(lead)
        if i:
            eos = tokenizer.eos_token
            before = eos + (before.partition(eos)[2] if eos in before else before)
        yield before, said, behind
