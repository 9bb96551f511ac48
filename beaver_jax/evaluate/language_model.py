"""A language model that is asked what it says of texts, and how it goes on.

Rows are sorted by length and padded to few lengths, so few programs are compiled.
Axes: B rows, T tokens.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from beaver_jax import scoring
from beaver_jax import terminal
from beaver_jax.evaluate import texts as texts_lib
from beaver_jax.losses import causal_lm
from beaver_jax.models import hf
from beaver_jax.models import transformer
from beaver_jax.rollout import continuous
from beaver_jax.rollout import sampling
from beaver_jax.rollout import scheduler
from beaver_jax.rollout import streaming
from beaver_jax.stages import inputs
from beaver_jax.stages import loading

BATCH = 16  # rows at a time, where nobody says how many
SHORTEST = 64  # rows are padded to this, twice this, …
CHUNK = 8  # tokens between two looks for stop strings
ADMITTED = 4  # prompts that are read at a time


class Said(NamedTuple):
    """What is said of a continuation."""

    logp: float  # of all its tokens together, in nats
    greedy: bool  # each is the likeliest in its place


class Prompt(NamedTuple):
    """What is to be gone on from."""

    tokens: Sequence[int]  # not empty; cut from the left where they are too many
    limit: int  # the most tokens that are added
    sampler: sampling.Sampler
    stop: tuple[str, ...] = ()  # texts, none empty, after which nothing is added


class LanguageModel:
    """A model and its texts."""

    def __init__(
        self,
        path: str,
        *,
        dtype: str = 'auto',
        batch_size: int = BATCH,
        max_length: int | None = None,
        add_bos: bool | None = None,
        seed: int = 0,
    ):
        """Loads a model.

        Args:
          path: A stage's directory or a Hugging Face directory.
          dtype: One of `inputs.DTYPES`, of parameters and computation.
          batch_size: B, rows that are scored or continued at a time.
          max_length: The most tokens that are read; None for the model's positions.
          add_bos: Whether texts begin with a BOS; None for the tokenizer's own way.
          seed: Of the sampling.

        Raises:
          ValueError: The path holds no language model, or a setting is out of range.
        """
        directory = loading.directory(path)
        positions = hf.backbone_config(directory).max_positions
        self.max_length = positions if max_length is None else max_length
        _check(dtype, batch_size, self.max_length, positions)
        ours, self._model, self._params = loading.to_talk_with(path, dtype)
        self.texts = texts_lib.Texts(directory, ours, add_bos)
        self.batch_size, self._pad_id = batch_size, ours.pad_token_id
        self._key = jax.random.key(seed)
        self.parameters = sum(x.size for x in jax.tree.leaves(self._params))

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Said]:
        """What is said of each continuation after its context.

        Args:
          pairs: Ids, none empty. A context is cut from the left where both together
            have more than max_length + 1, of which the last one is not read.

        Raises:
          ValueError: A pair is empty in part, or a continuation alone is too long.
        """
        for context, continuation in pairs:
            if not context or not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f'a context of {len(context)} tokens with a continuation of '
                    f'{len(continuation)} cannot be scored: both need tokens, and the '
                    f'continuation at most max_length={self.max_length}.'
                )
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        found: dict[int, Said] = {}
        with _progress('scored', len(pairs)) as progress:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                said = self._score([pairs[row] for row in rows])
                found.update(zip(rows, said, strict=True))
                progress.update(len(found), {})
        return [found[i] for i in range(len(pairs))]

    def _score(self, pairs) -> list[Said]:
        wholes = [
            [*before, *behind][-self.max_length - 1 :] for before, behind in pairs
        ]
        length = self._padded(max(map(len, wholes)) - 1)
        shape = (self.batch_size, length)
        tokens: Any = np.full(shape, self._pad_id, np.int32)
        targets: Any = np.zeros(shape, np.int32)
        mask: Any = np.zeros(shape, bool)
        counted: Any = np.zeros(shape, bool)
        for row, (ids, (_, behind)) in enumerate(zip(wholes, pairs, strict=True)):
            end = len(ids) - 1
            tokens[row, :end], targets[row, :end] = ids[:-1], ids[1:]
            mask[row, :end], counted[row, end - len(behind) : end] = True, True
        logps, greedy = _said(
            self._params, tokens, mask, targets, counted, model=self._model
        )
        rows = zip(np.asarray(logps).tolist(), np.asarray(greedy).tolist(), strict=True)
        return [Said(*row) for row in list(rows)[: len(pairs)]]

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Tokens that follow each prompt, the EOS included where one was sampled.

        They end with the token that completes a stop string. While this runs, the
        layers are in memory twice: together, and one by one.

        Raises:
          ValueError: A limit that leaves no room for a prompt.
        """
        if not prompts:
            return []
        numbers = {self._request(i, one): i for i, one in enumerate(prompts)}
        streamer = self._streamer(numbers)
        streamer.submit(sorted(numbers, key=lambda one: -len(one.tokens)))
        found: list[list[int]] = [[] for _ in prompts]
        ended = 0
        with _progress('continued', len(prompts)) as progress:
            while not streamer.idle:
                for piece in streamer.stream():
                    number = numbers[piece.request]
                    stopped = self._add(found[number], piece, prompts[number].stop)
                    if stopped and not piece.ended:
                        streamer.cancel([piece.request])
                    ended += stopped or piece.ended
                progress.update(ended, {})
        return found

    def _request(self, number: int, prompt: Prompt) -> scheduler.Request:
        room = self.max_length - prompt.limit
        if room < 1 or prompt.limit < 1 or not prompt.tokens:
            raise ValueError(
                f'{prompt.limit} tokens cannot be generated after a prompt of '
                f'{len(prompt.tokens)} with max_length={self.max_length}; the prompt '
                'needs a token at least, and so does what follows it.'
            )
        tokens: Any = np.array(prompt.tokens[-room:], np.int32)
        return scheduler.Request(number, tokens, prompt.limit, prompt.sampler)

    def _streamer(self, requests) -> streaming.Streamer:
        longest = self._padded(max(len(one.tokens) for one in requests))
        limit = max(one.limit for one in requests)
        lengths = {self._padded(n) for n in range(1, longest + 1)}
        settings = continuous.Settings(
            model=self._model,
            sampler=None,
            eos_ids=self.texts.end_ids,
            pad_id=self._pad_id,
            slots=self.batch_size,
            prompt_lengths=tuple(sorted(lengths)),
            response_length=limit,
            admitted=min(ADMITTED, self.batch_size),
        )
        params = transformer.unstack(self._params, self._model.config)
        steps = min(CHUNK, settings.places - 1)
        return streaming.Streamer(params, self._key, settings, steps)

    def _add(
        self, ids: list[int], piece: streaming.Piece, stop: tuple[str, ...]
    ) -> bool:
        """Adds a piece, up to where a stop string is complete; whether one is."""

        def complete(count):
            text = self.texts.decode(ids[:count], special=True)
            return any(one in text for one in stop)

        before = len(ids)
        ids += piece.tokens.tolist()
        if not stop or not complete(len(ids)):
            return False
        counts = range(before + 1, len(ids))
        del ids[next(filter(complete, counts), len(ids)) :]
        return True

    def _padded(self, length: int) -> int:
        size = SHORTEST
        while size < length:
            size *= 2
        return min(size, self.max_length)


@functools.partial(jax.jit, static_argnames='model')
def _said(params, tokens, mask, targets, counted, *, model):
    """Sums over the counted tokens of each row: [B] float32 and [B] bool."""
    hidden = model.apply({'params': params}, tokens, mask, method='hidden_states')

    def measure(logits, tokens):
        likeliest = jnp.argmax(logits, axis=-1) == tokens
        return causal_lm.token_logps(logits, tokens), likeliest

    logps, likeliest = scoring.of_tokens(measure, model, params, hidden, targets)
    summed = jnp.sum(jnp.where(counted, logps, 0.0), axis=1)
    return summed, jnp.all(likeliest | ~counted, axis=1)


def _check(dtype: str, batch_size: int, max_length: int, positions: int) -> None:
    if dtype not in inputs.DTYPES:
        raise ValueError(f'dtype={dtype!r}; known: {", ".join(inputs.DTYPES)}.')
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f'batch_size={batch_size!r}; must be a whole number above 0.')
    if type(max_length) is not int or not 2 <= max_length <= positions:
        raise ValueError(
            f'max_length={max_length!r}; must be a whole number from 2 to the '
            f"model's {positions} positions."
        )


def _progress(verb: str, total: int) -> terminal.Progress:
    # Standard output is for the results.
    return terminal.Progress(verb, total, console=rich.console.Console(stderr=True))
