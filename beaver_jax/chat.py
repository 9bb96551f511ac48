"""Talks with a model in the terminal, streaming.

    python -m beaver_jax.chat runs/tiny/ppo_lag
    python -m beaver_jax.chat MODEL --temperature 0 --prompt "How do I bake bread?"

A model is a stage's directory or a Hugging Face directory. With --prompt it answers
once and ends; with --raw the prompt is continued as it stands, without the template.
Commands: /reset forgets the conversation, /regenerate answers anew, /help, /quit.
Ctrl-C ends an answer, which then counts as far as it came.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beaver_jax import compilation
from beaver_jax import terminal
from beaver_jax import types
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.rollout import generate
from beaver_jax.rollout import sampling
from beaver_jax.stages import inputs
from beaver_jax.stages import loading

HELP = '/reset forgets the conversation, /regenerate answers anew, /help, /quit'
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
        state = self._begin(self._params, prompts, self._key)
        while True:
            # Cut on the host: on the device, each length would be a program.
            tokens, length, done = (
                np.asarray(x)[0] for x in (state.tokens, state.length, state.done)
            )
            yield tokens[: length - done].tolist()
            if done or length == self._most:
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


def converse(
    talker: Talker, read: Callable[[str], str], write: Callable[[str], Any]
) -> None:
    """Answers what is read until /quit or the end of the input."""
    turns: list[str] = []
    while True:
        try:
            line = read('USER: ').strip()
        except (EOFError, KeyboardInterrupt):
            write('\n')
            return
        if line in ('/quit', '/exit'):
            return
        if line == '/reset':
            turns = []
            write('The conversation is forgotten.\n')
            continue
        if line == '/regenerate' and turns:
            turns.pop()
        elif line.startswith('/'):
            if line == '/regenerate':
                write('There is no answer yet. ')
            elif line != '/help':
                write(f'{line} is no command. ')
            write(HELP + '\n')
            continue
        elif line:
            turns.append(line)
        else:
            continue
        ids = tokenizer_lib.encode_prompt(
            talker.tokenizer, tuple(turns), max_length=talker.context
        )
        write(told_cut(talker, turns, ids))
        write('ASSISTANT: ')
        turns.append(_answer(talker, ids, write))


def _answer(talker: Talker, ids: list[int], write: Callable[[str], Any]) -> str:
    """Writes an answer until its end or Ctrl-C, and returns it as far as it came."""
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        write(text)

    try:
        return print_stream(talker, ids, show, raw=False)
    except KeyboardInterrupt:
        write('\n')
        return ''.join(shown)


def told_cut(talker: Talker, turns: Sequence[str], ids: Sequence[int]) -> str:
    """A line that says so, where the ids of a conversation are not all of it."""
    whole = tokenizer_lib.encode_turns(talker.tokenizer, turns)
    if sum(map(len, whole)) == len(ids):
        return ''
    return f'(Cut to the {talker.context} tokens that leave room for an answer.)\n'


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and talks."""
    parser = argparse.ArgumentParser(
        prog='python -m beaver_jax.chat',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model', help='stage directory or Hugging Face directory')
    parser.add_argument('--prompt', help='answer this once and end')
    parser.add_argument('--raw', action='store_true', help='continue --prompt as it is')
    parser.add_argument('--temperature', type=float, default=1.0, help='0 is greedy')
    parser.add_argument('--top_k', type=int, default=0)
    parser.add_argument('--top_p', type=float, default=1.0)
    parser.add_argument('--repetition_penalty', type=float, default=1.0)
    parser.add_argument(
        '--max_new_tokens',
        type=int,
        help='longest answer; else half of the positions, at most 512',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--dtype',
        default='auto',
        choices=inputs.DTYPES,
        help='auto: bfloat16 on accelerators, float32 on CPUs',
    )
    arguments = parser.parse_args(argv)
    compilation.keep()
    if arguments.raw and arguments.prompt is None:
        parser.error('--raw needs --prompt')
    if arguments.prompt is not None and not (arguments.raw or arguments.prompt.strip()):
        parser.error('--prompt is empty')
    with terminal.errors_in_a_line(ValueError, OSError):
        sampler = sampling.Sampler(
            arguments.temperature,
            arguments.top_k,
            arguments.top_p,
            arguments.repetition_penalty,
        )
        talker = Talker(
            arguments.model,
            sampler,
            max_new_tokens=arguments.max_new_tokens,
            seed=arguments.seed,
            dtype=arguments.dtype,
        )
        _talk(talker, arguments)


def _talk(talker: Talker, arguments: argparse.Namespace) -> None:
    def write(text):
        print(text, end='', flush=True)

    def read(prompt):
        line = input(prompt)
        if not sys.stdin.isatty():  # what is read from a pipe shows nowhere else
            write(line + '\n')
        return line

    if arguments.prompt is None:
        write(HELP + '\n')
        converse(talker, read, write)
    elif arguments.raw:
        ids = talker.tokenizer(arguments.prompt)['input_ids']
        if len(ids) > talker.context:
            raise ValueError(
                f'--prompt has {len(ids)} tokens; with --raw at most {talker.context} '
                'fit beside max_new_tokens, and nothing is cut.'
            )
        if not ids and talker.tokenizer.bos_token_id is None:
            raise ValueError('--prompt is empty, and the model has no BOS.')
        print_stream(talker, ids or [talker.tokenizer.bos_token_id], write, raw=True)
    else:
        ids = tokenizer_lib.encode_prompt(
            talker.tokenizer, (arguments.prompt,), max_length=talker.context
        )
        sys.stderr.write(told_cut(talker, (arguments.prompt,), ids))
        print_stream(talker, ids, write, raw=False)


if __name__ == '__main__':
    main()
