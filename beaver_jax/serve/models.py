"""A language model that is served: its tokenizer and its engine."""

from collections.abc import Sequence
import copy
import functools
import re
import threading
import time

import jax

from beaver_jax.data import encoding
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import streaming
from beaver_jax.serve import engine as engine_lib
from beaver_jax.serve import limits as limits_lib
from beaver_jax.serve import texts
from beaver_jax.stages import inputs
from beaver_jax.stages import loading

SHORTEST = 64  # prompts are padded to this, twice this, …


class Model:
    """A language model under a name.

    Its methods may be called in any thread.
    """

    def __init__(
        self, name: str, path: str, limits: limits_lib.Limits, dtype: str = 'auto'
    ):
        """Loads and compiles a model.

        Args:
          name: What clients call it.
          path: A stage's directory or a Hugging Face directory.
          limits: Of the server.
          dtype: One of `inputs.DTYPES`.

        Raises:
          ValueError: There is no language model, or it has not enough positions.
        """
        self.name, self.created = name, int(time.time())
        self.tokenizer, model, params = loading.to_talk_with(path, dtype)
        self.limits = limits.within(model.config.max_positions)
        self.chat_frame = texts.chat_frame(self.tokenizer)
        # A tokenizer changes while it encodes: one is locked, one only decodes.
        self._lock, self._reader = threading.Lock(), copy.deepcopy(self.tokenizer)
        # A token's text within an answer, and its bytes where they are known.
        self.token = functools.lru_cache(maxsize=65536)(self._token)
        self.engine = engine_lib.Engine(
            functools.partial(
                streaming.Streamer,
                transformer.unstack(params, model.config),
                jax.random.key(0),  # answers differ by their jobs' numbers
                settings(model, self.tokenizer, self.limits),
                self.limits.chunk,
            ),
            self._reader,
            self.limits.slots + self.limits.queue,
        )

    def encode_chat(self, turns: Sequence[str]) -> tuple[int, ...]:
        """Ids of a conversation that goes user, assistant, …, user."""
        with self._lock:
            pieces = tokenizer_lib.encode_turns(self.tokenizer, turns)
        return tuple(token for piece in pieces for token in piece)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of a text as it stands, after a BOS where there is one."""
        bos = self.tokenizer.bos_token_id
        with self._lock:
            (ids,) = encoding.plain(self.tokenizer, [text])
        return (*([] if bos is None else [bos]), *ids)

    @functools.cached_property
    def vocabulary(self) -> range:
        """Ids that prompts may hold."""
        return range(len(self.tokenizer))

    def _token(self, token: int) -> tuple[str, bytes | None]:
        decoder = texts.Decoder(self._reader, self.chat_frame.before)
        text = decoder.push([token], last=True)
        if texts.UNFINISHED not in text:
            return text, text.encode()
        (piece,) = list(self._reader.convert_ids_to_tokens([token]))
        return text, _bytes(piece)


def settings(
    model: transformer.CausalLM,
    tokenizer: inputs.Tokenizer,
    limits: limits_lib.Limits,
) -> continuous.Settings:
    """What is compiled for a model within its limits."""
    lengths, length = [], SHORTEST
    while length < limits.prompt_tokens:
        lengths.append(length)
        length *= 2
    return continuous.Settings(
        model=model,
        sampler=None,
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
        slots=limits.slots,
        prompt_lengths=(*lengths, limits.prompt_tokens),
        response_length=limits.answer_tokens,
        admitted=limits.prompts,
        alternatives=min(limits.top_logprobs, model.config.vocab_size),
    )


def _bytes(piece: str) -> bytes | None:
    """The bytes of a token that is no whole character, if its spelling tells them."""
    if found := re.fullmatch(r'<0x([0-9A-Fa-f]{2})>', piece):
        return bytes.fromhex(found[1])
    try:
        return bytes(_byte_characters()[character] for character in piece)
    except KeyError:
        return None


@functools.cache
def _byte_characters() -> dict[str, int]:
    """What byte-level vocabularies write for bytes: printable ones are themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
