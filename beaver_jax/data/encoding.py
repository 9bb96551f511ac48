"""Text to ids where nothing that people wrote becomes a special token."""

from transformers import PreTrainedTokenizerBase


def plain(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[list[int]]:
    """Ids of each text, without BOS and EOS and with every character as plain text."""
    return tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
    )['input_ids']


def after(
    tokenizer: PreTrainedTokenizerBase, before: str, text: str
) -> list[int] | None:
    """Ids of `text` as it stands after `before`; None if a token spans the border."""
    head, joint = plain(tokenizer, before, before + text)
    return joint[len(head) :] if joint[: len(head)] == head else None


def between(
    tokenizer: PreTrainedTokenizerBase, before: str, text: str, behind: str
) -> list[int]:
    """Ids of what a person wrote between two texts that may hold special tokens.

    They are the ids of the whole, unless the person wrote a special token: then each of
    the three is encoded apart, and what was written stays plain text.
    """

    def with_special(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)['input_ids']

    if any(token in text for token in special(tokenizer)):
        return [
            *with_special(before),
            *plain(tokenizer, text)[0],
            *(with_special(behind) if behind else []),
        ]
    return with_special(before + text + behind)


def special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The texts of all special tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
