"""Text to ids and back, for any tokenizer that `transformers` reads from a directory.

What people write is encoded as plain text: a literal `</s>` in a question is four
characters and never the EOS id. So nobody can close a turn from inside it. Ids of a
conversation are put together turn by turn, with BOS and EOS as ids.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
import contextlib
import functools
import itertools
import logging
import os
import pathlib
import re

import transformers
from transformers import PreTrainedTokenizerBase

from beaver_jax.data import chat_template
from beaver_jax.data import encoding
from beaver_jax.data import template

log = logging.getLogger(__name__)

_BEFORE_ANSWER = (template.ASSISTANT, '\n')
# A later turn stands behind an EOS id, not at the start of a text: no space first.
_BEFORE_USER = ('\n',)


def load(
    directory: str | os.PathLike[str], format: str = ''
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a local directory; code in the directory is never run.

    Its `chat_template` is the format of its conversations, and is saved with it: the
    original's (`template.JINJA`), or one of its own.

    Args:
        directory: with tokenizer.json, tokenizer.model, or vocabulary and merges.
        format: 'beaver', the original's template; 'chat', the tokenizer's own; '' its
            own if it has one, else the original's.

    Its special tokens by rule, each rule that was needed logged once:

    - EOS ends every answer; there is no tokenizer without one.
    - BOS begins every conversation where there is one, also where it is the EOS
      (GPT-2, GPT-NeoX, OPT); without one (Qwen2) nothing stands before the template.
    - Padding that is missing (GPT-2, LLaMA) is the EOS. This adds no id to the
      vocabulary and changes no result: masks come from lengths, never from ids.
    - In the format 'chat', the special token with which the template ends an answer is
      the EOS, also where the tokenizer names another one (Gemma's <end_of_turn>).

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no tokenizer, or one without an EOS token, or no chat
            template where one is asked for, or one that cannot be rendered.
    """
    path = pathlib.Path(directory)
    if not path.is_dir():
        raise FileNotFoundError(
            f'No directory {str(path)!r} to load a tokenizer from; name a local '
            'directory that holds tokenizer.json or tokenizer.model.'
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # transformers raises whatever the file's parser raises
        reason = (str(error).splitlines() or [''])[0]
        raise ValueError(
            f'{path} holds no tokenizer that transformers can read '
            f'({type(error).__name__}: {reason}); it needs tokenizer.json or '
            'tokenizer.model, and tokenizer_config.json.'
        ) from error
    # From a bare config.json, transformers builds a tokenizer of special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(
            f'{path} holds no vocabulary; put tokenizer.json or tokenizer.model there.'
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f'The tokenizer in {path} has no EOS token, so no response could end; set '
            'eos_token in its tokenizer_config.json.'
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        _say(path, f'no padding token; {tokenizer.eos_token!r}, the EOS, serves as one')
    if tokenizer.bos_token_id is None:
        _say(path, 'no BOS token; conversations begin with the template')
    _set_format(tokenizer, path, format)
    return tokenizer


def has_own_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether conversations are in a chat template other than the original's."""
    return tokenizer.chat_template not in (None, template.JINJA)


def _set_format(
    tokenizer: PreTrainedTokenizerBase, path: pathlib.Path, format: str
) -> None:
    if format == 'chat' and tokenizer.chat_template is None:
        raise ValueError(
            f'The tokenizer in {path} has no chat template; use '
            "config.data.template=beaver, the original's, or put chat_template into "
            'its tokenizer_config.json.'
        )
    if format == 'beaver' or tokenizer.chat_template is None:
        tokenizer.chat_template = template.JINJA
    if has_own_template(tokenizer):
        end = chat_template.end_token(tokenizer)
        if end is not None and end != tokenizer.eos_token:
            _say(path, f'a chat template that ends answers with {end!r}: the EOS')
            tokenizer.eos_token = end


@functools.cache
def _say(path: pathlib.Path, rule: str) -> None:
    """Logs a rule that a tokenizer needed, once."""
    log.info('the tokenizer in %s has %s', path, rule)


def save(tokenizer: PreTrainedTokenizerBase, directory: str | os.PathLike[str]) -> None:
    """Writes a tokenizer's files into a directory, for `load`.

    Raises:
        OSError: a file cannot be written.
    """
    with os_errors(directory):
        tokenizer.save_pretrained(str(directory))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[str], *, max_length: int
) -> list[int]:
    """Ids of a prompt in the template: BOS to the place where the answer begins.

    A prompt that is too long loses its oldest turns first; then its last question is
    cut at the question's end. The template's end is never lost.

    Args:
        tokenizer: from `load`.
        turns: texts that go user, assistant, ..., user.
        max_length: the most ids to return.

    Raises:
        ValueError: `turns` has an even number of texts, or the template alone is longer
            than `max_length`.
    """
    return _encode_prompt(tokenizer, turns, max_length).tolist()


def shorten(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[str], *, max_length: int
) -> tuple[str, ...]:
    """What of a prompt's turns `encode_prompt` keeps.

    Args and errors: see there.
    """
    template.check_turns(turns)
    kept = tuple(turns)
    while (long := _length(tokenizer, kept) > max_length) and len(kept) > 1:
        kept = kept[2:]
    return (_cut(tokenizer, kept[0], max_length),) if long else kept


def _length(tokenizer: PreTrainedTokenizerBase, turns: Sequence[str]) -> int:
    return sum(map(len, _encode_turns(tokenizer, turns)))


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Ids of a response after its prompt, and EOS.

    They are the ids that stand behind the prompt's when prompt and response are encoded
    as one text. Where the tokenizer would merge the end of the template with the start
    of the response, the response is encoded apart. In neither case does the tokenizer
    put the space before it that it puts at the start of a text. Only the template's end
    is encoded along, so the cost does not depend on the prompt.
    """
    (ids,) = _encode_answers(tokenizer, [response])
    return ids.tolist()


def encode_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[str]
) -> list[list[int]]:
    """Ids of each turn of a conversation that goes user, assistant, user, ...

    The concatenation is the conversation: BOS stands in the first turn, the template in
    the user's turns, EOS at the end of each of the assistant's.
    """
    return [piece.tolist() for piece in _encode_turns(tokenizer, turns)]


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Iterable[Sequence[str]],
    *,
    workers: int = 0,
) -> Generator[list[encoding.Ids]]:
    """`encode_turns` of each conversation, as `encoding.Ids`, of many at once.

    With `workers` above 0, so many processes encode; they end with the iterator.
    """
    return encoding.many(_encode_conversations, tokenizer, conversations, workers)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Sequence[str]],
    *,
    max_length: int,
    workers: int = 0,
) -> Generator[tuple[int, encoding.Ids]]:
    """`encode_prompt` of each prompt, after the number of ids that it has unshortened.

    Ids are `encoding.Ids`; `workers` as in `encode_conversations`.
    """
    encode = functools.partial(_encode_prompts, max_length=max_length)
    return encoding.many(encode, tokenizer, prompts, workers)


def encode_answered(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[tuple[Sequence[str], Sequence[str]]],
    *,
    workers: int = 0,
) -> Generator[tuple[list[encoding.Ids], list[encoding.Ids]]]:
    """`encode_turns` of each prompt and `encode_response` of each response to it.

    Both as `encoding.Ids`.

    Args:
        tokenizer: from `load`.
        prompts: (turns, responses).
        workers: as in `encode_conversations`.
    """
    return encoding.many(_encode_answered, tokenizer, prompts, workers)


def gives_same_ids(
    tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> bool:
    """Whether two tokenizers give conversations the same ids, template included."""
    if tokenizer.get_vocab() != other.get_vocab():
        return False
    # Of one vocabulary, spaces, BOS, EOS and the template may still differ.
    turns = ('Why  not?\n Ask (me).', ' So: 12.', 'And\tthen?', 'Well. é')
    return encode_turns(tokenizer, turns) == encode_turns(other, turns)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of response ids, without special tokens: undoes `encode_response`."""
    # Decoders drop a leading space as their own addition; behind the template's end
    # the response keeps the spaces that it begins with.
    (anchor,) = encoding.plain(tokenizer, [template.ASSISTANT])
    before, both = tokenizer.batch_decode(
        [anchor.tolist(), [*anchor, *(int(token) for token in ids)]],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    text = both[len(before) :]
    if has_own_template(tokenizer):
        return chat_template.unframed(tokenizer, text)
    return text


@contextlib.contextmanager
def os_errors(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Makes OSErrors of the bare exceptions that `tokenizers` raises for them."""
    try:
        yield
    except Exception as error:
        found = re.search(r'\(os error (\d+)\)', str(error))
        if isinstance(error, OSError) or found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(directory)) from error


def _encode_prompt(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[str], max_length: int
) -> encoding.Ids:
    kept = shorten(tokenizer, turns, max_length=max_length)
    return encoding.joined(_encode_turns(tokenizer, kept))


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[str]
) -> list[encoding.Ids]:
    (pieces,) = _encode_conversations(tokenizer, [turns])
    return pieces


def _encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[str]]
) -> list[list[encoding.Ids]]:
    if has_own_template(tokenizer):
        return chat_template.encode_conversations(tokenizer, conversations)
    places = [i for turns in conversations for i in range(len(turns))]
    texts = itertools.chain.from_iterable(conversations)
    said = [_said(i, text) for i, text in zip(places, texts, strict=True)]
    encoded = encoding.after(tokenizer, said)
    bos = tokenizer.bos_token_id
    begin = encoding.as_ids([] if bos is None else [bos])
    end = encoding.as_ids([tokenizer.eos_token_id])

    whole = (
        begin + ids if i == 0 else ids + end if i % 2 else ids
        for i, ids in zip(places, encoded, strict=True)
    )
    return [list(itertools.islice(whole, len(turns))) for turns in conversations]


def _said(i: int, text: str) -> tuple[str, tuple[str, ...]]:
    """A conversation's turn `i`, and what it may stand after."""
    if i % 2:
        return text, _BEFORE_ANSWER
    return template.format_user(text, first=i == 0), _BEFORE_USER if i else ()


def _encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[str]],
    *,
    max_length: int,
) -> list[tuple[int, encoding.Ids]]:
    found = []
    whole = _encode_conversations(tokenizer, prompts)
    for turns, pieces in zip(prompts, whole, strict=True):
        length = sum(map(len, pieces))
        if length > max_length:
            ids = _encode_prompt(tokenizer, turns, max_length)
        else:
            ids = encoding.joined(pieces)
        found.append((length, ids))
    return found


def _encode_answered(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> list[tuple[list[encoding.Ids], list[encoding.Ids]]]:
    turns = _encode_conversations(tokenizer, [turns for turns, _ in prompts])
    texts = [text for _, responses in prompts for text in responses]
    answers = iter(_encode_answers(tokenizer, texts))
    return [
        (pieces, [next(answers) for _ in responses])
        for pieces, (_, responses) in zip(turns, prompts, strict=True)
    ]


def _encode_answers(
    tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]
) -> list[encoding.Ids]:
    if has_own_template(tokenizer):
        return chat_template.encode_answers(tokenizer, answers)
    end = encoding.as_ids([tokenizer.eos_token_id])
    found = encoding.after(tokenizer, [(text, _BEFORE_ANSWER) for text in answers])
    return [ids + end for ids in found]


def _cut(tokenizer: PreTrainedTokenizerBase, question: str, max_length: int) -> str:
    """As much of the start of a prompt's only question as fits."""

    def length(size: int) -> int:
        return _length(tokenizer, (question[:size].rstrip(),))

    if length(0) > max_length:
        raise ValueError(
            f'max_length={max_length} leaves no room for a question: the conversation '
            f'template alone takes {length(0)} tokens; give it more.'
        )
    fits, too_long = 0, len(question)
    while too_long - fits > 1:
        size = (fits + too_long) // 2
        if length(size) <= max_length:
            fits = size
        else:
            too_long = size
    return question[:fits].rstrip()
