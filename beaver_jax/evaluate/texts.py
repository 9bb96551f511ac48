"""Texts of evaluations to ids and back, as the model's own files say.

In an evaluation's text special tokens may be written out, as chat templates do, which
what people say to a policy may not (see `data.tokenizer`). BOS and EOS are those that
other programs find in the same directory, so that results can be compared.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import transformers

from beaver_jax.stages import inputs


class Texts:
    """The tokenizer of a model that is evaluated."""

    def __init__(
        self,
        directory: pathlib.Path,
        ours: inputs.Tokenizer,
        add_bos: bool | None = None,
    ):
        """Reads a directory anew.

        Args:
          directory: A Hugging Face directory.
          ours: Of `data.tokenizer.load`, which has checked it: its chat template
            serves where the directory has none, and its EOS ends a text too.
          add_bos: Whether texts begin with a BOS; None for the tokenizer's own way.
        """
        how = {} if add_bos is None else {'add_bos_token': add_bos}
        self._add_bos = add_bos
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True, **how
        )
        if self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = ours.chat_template
        ends = {ours.eos_token_id, self.eos_id, *_named_ends(directory)}
        self.end_ids = tuple(sorted(ends))

    @property
    def eos_id(self) -> int:
        """The EOS that the tokenizer names."""
        return self.tokenizer.eos_token_id

    @property
    def first_id(self) -> int:
        """What a text without a context stands behind: BOS, or EOS without one."""
        bos = self.tokenizer.bos_token_id
        return self.eos_id if bos is None else bos

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Ids of a text.

        Args:
          text: As it is; its chat template, if any, has been applied.
          special: Whether a BOS (or what else the tokenizer adds) is added; None for
            the model's own way, but never a second BOS.
        """
        if special is None:
            begun = text.startswith(self.decode([self.first_id], special=True))
            special = False if begun else self._add_bos
        how = {} if special is None else {'add_special_tokens': special}
        return self.tokenizer.encode(text, **how)

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of what follows it, as they stand in the whole text.

        Spaces at the context's end go to the continuation, whose words have them. Where
        a token spans the border, the continuation is encoded apart.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        if not kept:
            return [self.first_id], self.encode(continuation, special=False)
        head, whole = self.encode(kept), self.encode(kept + continuation)
        if whole[: len(head)] == head and len(whole) > len(head):
            return head, whole[len(head) :]
        return head, self.encode(continuation, special=False)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids, with or without special tokens."""
        (text,) = self.tokenizer.batch_decode(
            [list(ids)], skip_special_tokens=not special
        )
        return text


def _named_ends(directory: pathlib.Path) -> list[int]:
    """The ids that a model's files say texts end with, as generation reads them."""
    file = directory / 'generation_config.json'
    if file.is_file():
        named = json.loads(file.read_text()).get('eos_token_id')
    else:
        config: Any = transformers.AutoConfig.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        named = getattr(config, 'eos_token_id', None)
    if named is None:
        return []
    return named if isinstance(named, list) else [named]
