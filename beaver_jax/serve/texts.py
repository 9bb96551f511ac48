"""The text of an answer while its tokens come, up to a stop string."""

from collections.abc import Sequence
import dataclasses

from beaver_jax.data import chat_template
from beaver_jax.data import encoding
from beaver_jax.data import template
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.stages import inputs

# So many tokens of a prompt decide how the first one behind it is written.
CONTEXT = 8
UNFINISHED = '\ufffd'  # what stands for a character whose last bytes are missing


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around an answer and is no part of it.

    Attributes:
      before: Tokens behind which the answer is decoded.
      lead: Text with which the answer begins.
      trail: Text with which it ends before the EOS.
    """

    before: tuple[int, ...]
    lead: str = ''
    trail: str = ''


def chat_frame(tokenizer: inputs.Tokenizer) -> Frame:
    """The frame of answers in conversations, as `tokenizer.decode` takes it off."""
    (anchor,) = encoding.plain(tokenizer, [template.ASSISTANT])
    if not tokenizer_lib.has_own_template(tokenizer):
        return Frame(tuple(anchor))
    frame = chat_template.answer_frame(tokenizer)
    return Frame(tuple(anchor), frame.lead, frame.trail)


class Decoder:
    """Ids to text, a few at a time.

    The pieces are those of the whole: words keep the spaces between them, and a
    character of several tokens comes once it is whole. Only the last few ids are
    decoded each time.
    """

    def __init__(self, tokenizer: inputs.Tokenizer, before: Sequence[int]):
        """Begins behind some ids."""
        self._tokenizer = tokenizer
        self._ids = list(before[-CONTEXT:])
        self._from, self._read = 0, len(self._ids)

    def push(self, ids: Sequence[int], *, last: bool = False) -> str:
        """The text that so many ids more bring; all that is left at the last."""
        self._ids += ids
        old, new = self._tokenizer.batch_decode(
            [self._ids[self._from : self._read], self._ids[self._from :]],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        if new.endswith(UNFINISHED) and not last:
            return ''
        piece = new[len(old) :]
        # Ids without a text, alone, would not tell what follows them from a beginning.
        if piece:
            self._from = self._read
        self._read = len(self._ids)
        return piece


class Text:
    """An answer's text: what is shown of it, and whether a stop string ended it.

    Of several stop strings that one counts that is complete first, and of those that
    are complete at once the longest; so the result depends on no division into pieces.
    """

    def __init__(
        self, tokenizer: inputs.Tokenizer, frame: Frame, stop: Sequence[str] = ()
    ):
        """An empty text."""
        self._decoder = Decoder(tokenizer, frame.before)
        self._frame, self._stop = frame, tuple(stop)
        self._held, self._begun = '', not frame.lead
        self.shown = 0  # characters
        self.stopped = False

    @property
    def length(self) -> int:
        """Characters that are shown or held back."""
        return self.shown + len(self._held)

    def push(self, ids: Sequence[int]) -> str:
        """What is certain to belong to the text after these ids."""
        self._take(self._decoder.push(ids))
        return self._show(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """The rest, at the end."""
        if self.stopped:
            return ''
        self._take(self._decoder.push((), last=True), last=True)
        if not self.stopped:
            self._held = self._held.removesuffix(self._frame.trail)
        return self._show(len(self._held))

    def _take(self, piece: str, *, last: bool = False) -> None:
        self._held += piece
        lead = self._frame.lead
        if not self._begun:
            # What may yet become the lead is no text in which a stop string counts.
            if not last and len(self._held) < len(lead) and lead.startswith(self._held):
                return
            self._begun = True
            self._held = self._held.removeprefix(lead)
        found = [(i + len(s), i) for s in self._stop if (i := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)[1]]

    def _doubtful(self) -> int:
        """Characters at the end that may begin a stop string, or the frame."""
        if self.stopped:
            return 0
        if not self._begun:
            return len(self._held)
        return max(
            (_overlap(self._held, s) for s in (*self._stop, self._frame.trail)),
            default=0,
        )

    def _show(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self.shown += len(text)
        return text


def _overlap(text: str, behind: str) -> int:
    """The most characters at the end of a text with which another one begins."""
    longest = min(len(text), len(behind))
    return next((n for n in range(longest, 0, -1) if text.endswith(behind[:n])), 0)
