r"""Talks with models in the terminal, streaming.

    python -m beaver_jax.chat runs/tiny/ppo_lag
    python -m beaver_jax.chat MODEL --temperature 0 --prompt "How do I bake bread?"
    python -m beaver_jax.chat runs/tiny/sft runs/tiny/ppo_lag \
        --reward runs/tiny/reward --cost runs/tiny/cost

A model is a stage's directory or a Hugging Face directory; of several each answers, and
goes on from its own answers. NAME= before it is what it is called, which else is the
directory's name. With --prompt they answer once and end; with --raw the prompt is
continued as it stands, without the template. Commands: /reset forgets the conversation,
/regenerate answers anew, /clear clears the screen, /score tells reward and costs of the
last answers, /help, /quit. Ctrl-C ends an answer, which then counts as far as it came.
"""

import argparse
from collections.abc import Collection, Mapping
import sys

import rich.console

from beaver_jax import compilation
from beaver_jax import terminal
from beaver_jax.chat import conversation
from beaver_jax.chat import talker as talker_lib
from beaver_jax.rollout import sampling
from beaver_jax.stages import command_line
from beaver_jax.stages import score_model


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and talks."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    compilation.keep()
    scored = arguments.reward or arguments.cost
    if arguments.raw and arguments.prompt is None:
        parser.error('--raw needs --prompt')
    if arguments.raw and scored:
        parser.error('--raw is no conversation; --reward and --cost score those')
    if arguments.prompt is not None and not (arguments.raw or arguments.prompt.strip()):
        parser.error('--prompt is empty')
    with terminal.errors_in_a_line(ValueError, OSError):
        talkers, score_models = _load(arguments)
        if arguments.raw:
            _continue(talkers, arguments.prompt)
        else:
            _talk(talkers, score_models, arguments.prompt)


def _load(
    arguments: argparse.Namespace,
) -> tuple[dict[str, talker_lib.Talker], dict[str, score_model.ScoreModel]]:
    sampler = sampling.Sampler(
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.repetition_penalty,
    )
    talkers, score_models = command_line.paths(arguments)
    loaded = {
        name: talker_lib.Talker(
            path,
            sampler,
            max_new_tokens=arguments.max_new_tokens,
            seed=arguments.seed,
            dtype=arguments.dtype,
        )
        for name, path in talkers.items()
    }
    return loaded, {
        name: score_model.ScoreModel(path, arguments.dtype)
        for name, path in score_models.items()
    }


def _talk(
    talkers: Mapping[str, talker_lib.Talker],
    score_models: Mapping[str, score_model.ScoreModel],
    prompt: str | None,
) -> None:
    """Answers a prompt, or what is read until there is no more."""
    talk = conversation.Conversation(
        talkers,
        score_models,
        labels=_labels(talkers, '' if prompt else 'ASSISTANT'),
        write=_write,
        warn=sys.stderr.write,
        clear=rich.console.Console().clear,
    )
    if prompt is None:
        _write(conversation.HELP + '\n')
        talk.converse(_read)
    else:
        talk.ask(prompt)
        if score_models:
            talk.score()


def _labels(names: Collection[str], role: str) -> dict[str, str]:
    """What stands before answers: the role, and among several the name."""
    if len(names) == 1:
        return dict.fromkeys(names, role and f'{role}: ')
    return {name: f'{role} ({name}): ' if role else f'{name}: ' for name in names}


def _continue(talkers: Mapping[str, talker_lib.Talker], prompt: str) -> None:
    """Continues text as it stands."""
    labels = _labels(talkers, '')
    for name, talker in talkers.items():
        ids = talker.tokenizer(prompt)['input_ids']
        if len(ids) > talker.context:
            raise ValueError(
                f'--prompt has {len(ids)} tokens; with --raw at most {talker.context} '
                'fit beside max_new_tokens, and nothing is cut.'
            )
        if not ids and talker.tokenizer.bos_token_id is None:
            raise ValueError('--prompt is empty, and the model has no BOS.')
        _write(labels[name])
        ids = ids or [talker.tokenizer.bos_token_id]
        try:
            talker_lib.print_stream(talker, ids, _write, raw=True)
        except KeyboardInterrupt:
            _write('\n')


def _write(text: str) -> None:
    print(text, end='', flush=True)


def _read(prompt: str) -> str:
    line = input(prompt)
    if not sys.stdin.isatty():  # what is read from a pipe shows nowhere else
        _write(line + '\n')
    return line


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser('beaver_jax.chat', __doc__)
    command_line.add_models(parser)
    command_line.add_score_models(parser, '/score, and after the answer to --prompt')
    parser.add_argument(
        '--prompt', action=command_line.Once, help='answer this once and end'
    )
    parser.add_argument('--raw', action='store_true', help='continue --prompt as it is')
    parser.add_argument('--temperature', type=float, default=1.0, help='0 is greedy')
    parser.add_argument(
        '--top_k',
        type=int,
        default=0,
        help='draw from so many of the likeliest tokens; 0 is from all',
    )
    parser.add_argument(
        '--top_p',
        type=float,
        default=1.0,
        help='draw from the fewest tokens that together have this probability',
    )
    parser.add_argument(
        '--repetition_penalty',
        type=float,
        default=1.0,
        help='above 1 makes tokens that were there already less likely',
    )
    parser.add_argument(
        '--max_new_tokens',
        type=int,
        help='longest answer; else half of the positions, at most 512',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the sampling')
    command_line.add_dtype(parser)
    return parser


if __name__ == '__main__':
    main()
