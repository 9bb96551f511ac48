"""A model that answers one conversation, and shows its answer as it grows."""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import types
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.stages import loading

# Prompts are padded to a multiple of this, so that few shapes are compiled.
BUCKET = 32


class Talker:
    """A model that continues token ids, one at a time."""

    def __init__(
        self,
        path: str,
        sampler: sampling.Sampler,
        *,
        max_new_tokens: int | None = None,
        seed: int = 0,
        dtype: str = 'auto',
    ):
        """Loads a model and its tokenizer.

        Args:
          path: A stage's directory or a Hugging Face directory.
          sampler: How it answers.
          max_new_tokens: The longest answer; None is half of the model's positions,
            at most 512.
          seed: Of the sampling.
          dtype: One of `inputs.DTYPES`, of parameters and computation.

        Raises:
          ValueError: The path holds no language model, or max_new_tokens leaves no
            room for a prompt.
        """
        self.tokenizer, self._model, self._params = loading.to_talk_with(path, dtype)
        self._key, self._turns = jax.random.key(seed), 0
        self.ended = False  # whether the last answer came to its own end
        if max_new_tokens is None:
            max_new_tokens = min(512, self._model.config.max_positions // 2)
        self._most = max_new_tokens
        if not 0 < max_new_tokens < self._model.config.max_positions:
            raise ValueError(
                f'max_new_tokens={max_new_tokens} does not fit into the '
                f'{self._model.config.max_positions} positions of the model beside a '
                f'prompt; use 1 to {self._model.config.max_positions - 1}.'
            )
        settings: dict[str, Any] = {
            'model': self._model,
            'sampler': sampler,
            'eos_ids': (self.tokenizer.eos_token_id,),
        }
        self._begin = jax.jit(
            functools.partial(
                generate.begin,
                response_length=max_new_tokens,
                pad_id=self.tokenizer.pad_token_id,
                **settings,
            )
        )
        self._advance = jax.jit(
            functools.partial(generate.advance, **settings), donate_argnums=1
        )

    @property
    def context(self) -> int:
        """The most tokens of a prompt that leave room for an answer."""
        return self._model.config.max_positions - self._most

    def stream(self, ids: list[int]) -> Iterator[list[int]]:
        """Yields the response so far, once per token, without the EOS."""
        prompts = _left_pad(ids, self.tokenizer.pad_token_id, self._turns)
        self._turns += 1
        self.ended = False
        state = self._begin(self._params, prompts, self._key)
        while True:
            # Cut on the host: on the device, each length would be a program.
            tokens, length, done = (
                np.asarray(x)[0] for x in (state.tokens, state.length, state.done)
            )
            yield tokens[: length - done].tolist()
            if done or length == self._most:
                self.ended = bool(done)
                return
            state = self._advance(self._params, state)


def _left_pad(ids: list[int], pad_id: int, row: int) -> types.PromptBatch:
    length = -(-len(ids) // BUCKET) * BUCKET
    empty = length - len(ids)
    return types.PromptBatch(
        tokens=jnp.array([[pad_id] * empty + ids], jnp.int32),
        mask=jnp.array([[False] * empty + [True] * len(ids)]),
        row=jnp.array([row], jnp.int32),
    )


def print_stream(
    talker: Talker, ids: list[int], write: Callable[[str], Any], *, raw: bool
) -> str:
    """Writes an answer as it grows, and returns it."""
    shown = text = ''
    for response in talker.stream(ids):
        # Raw text begins with the prompt, as word boundaries depend on it.
        if raw:
            (text,) = talker.tokenizer.batch_decode(
                [ids + response],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
        else:
            text = tokenizer_lib.decode(talker.tokenizer, response)
        # A character of several tokens shows once it is whole, or at the end.
        if not text.endswith('\ufffd'):
            write(text[len(shown) :])
            shown = text
    write(text[len(shown) :] + '\n')
    return text


def told_cut(talker: Talker, turns: Sequence[str], ids: Sequence[int]) -> str:
    """A line that says so, where the ids of a conversation are not all of it."""
    whole = tokenizer_lib.encode_turns(talker.tokenizer, turns)
    if sum(map(len, whole)) == len(ids):
        return ''
    return f'(Cut to the {talker.context} tokens that leave room for an answer.)\n'
