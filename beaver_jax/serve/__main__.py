r"""Serves models over HTTP, in the shapes of OpenAI's API.

    python -m beaver_jax.serve runs/tiny/ppo_lag
    python -m beaver_jax.serve sft=runs/tiny/sft ppo=runs/tiny/ppo \
        --reward runs/tiny/reward --cost runs/tiny/cost

A model is a stage's directory or a Hugging Face directory; NAME= before it is what
clients call it, which else is the directory's name. docs/serving.md tells the rest.
"""

import argparse
import dataclasses
import logging
import os
import signal

from beaver_jax import compilation
from beaver_jax import terminal
from beaver_jax.serve import address
from beaver_jax.serve import limits as limits_lib
from beaver_jax.stages import command_line

log = logging.getLogger('beaver_jax.serve')
# Seconds until an idle connection is closed: later than clients close theirs (5 for
# httpx, 15 for aiohttp), which else may send a request to a server that hangs up.
KEEP_ALIVE = 75
LOCAL_HOSTS = ('127.0.0.1', 'localhost', '::1')


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and serves until SIGTERM or SIGINT."""
    arguments = _parser().parse_args(argv)
    terminal.show_log()
    compilation.keep()
    with terminal.errors_in_a_line(ValueError, OSError):
        serve(arguments)


def serve(arguments: argparse.Namespace) -> None:
    """Loads everything, then serves; what runs is finished at the end.

    Raises:
      ValueError: A model that is none, an option out of range, or a server for others
        without a token.
      OSError: The port is taken, or the file of votes is none.
    """
    try:
        import uvicorn

        from beaver_jax.serve import app
        from beaver_jax.serve import votes
    except ImportError as error:
        raise ValueError(
            f"{error}; install the server's packages: pip install -e '.[serve]'"
        ) from error
    names = [field.name for field in dataclasses.fields(limits_lib.Limits)]
    limits = limits_lib.Limits(**{name: getattr(arguments, name) for name in names})
    token = _token(arguments)
    paths = command_line.paths(arguments)
    # First what can be refused at once: models take minutes.
    sockets = address.bind(arguments.host, arguments.port)
    held = votes.Votes(arguments.votes)
    loaded, judge = _load(*paths, limits, arguments.dtype)
    served = app.Served(loaded, judge, limits, token, held)
    config = uvicorn.Config(
        app.make(served),
        log_level='warning',
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
        timeout_keep_alive=KEEP_ALIVE,
    )
    where = f'http://{arguments.host}:{sockets[0].getsockname()[1]}'
    log.info('serve: %s on %s', ', '.join(served.models), where)
    # Uvicorn finishes what runs, and then raises again the signal that ended it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets)
    served.close()
    log.info('serve: finished')


def _load(
    talkers: dict[str, str],
    scorers: dict[str, str],
    limits: limits_lib.Limits,
    dtype: str,
):
    """The language models, and what scores, if anything does."""
    from beaver_jax.serve import models
    from beaver_jax.serve import scorer
    from beaver_jax.stages import score_model

    loaded = {}
    for name, path in talkers.items():
        log.info('serve: loading and compiling %s', name)
        loaded[name] = models.Model(name, path, limits, dtype)
    score_models = {
        name: score_model.ScoreModel(path, dtype) for name, path in scorers.items()
    }
    judge = None
    if score_models:
        log.info('serve: compiling %s', ', '.join(score_models))
        longest = max(one.limits.prompt_tokens for one in loaded.values())
        longest += max(one.limits.answer_tokens for one in loaded.values())
        judge = scorer.Scorer(
            score_models,
            rows=limits.prompts,
            tokens=longest,
            capacity=limits.queue + limits.prompts,
        )
    return loaded, judge


def _token(arguments: argparse.Namespace) -> str | None:
    if arguments.token is None:
        if arguments.host not in LOCAL_HOSTS:
            raise ValueError(
                f'--host={arguments.host} serves others than this machine; name an '
                'environment variable that holds a token for them: --token=VARIABLE.'
            )
        return None
    token = os.environ.get(arguments.token, '').strip()
    if not token:
        raise ValueError(
            f'--token={arguments.token}: there is no such environment variable, or it '
            'is empty. It must hold the token, which is not for the command line.'
        )
    return token


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser('beaver_jax.serve', __doc__)
    command_line.add_models(parser)
    command_line.add_score_models(parser, '/v1/score and the page')
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; one for others than this machine needs --token',
    )
    parser.add_argument('--port', type=int, default=8000, help='0 is one that is free')
    parser.add_argument(
        '--token',
        metavar='VARIABLE',
        help='environment variable with the token that clients must send',
    )
    parser.add_argument(
        '--votes',
        default='',
        metavar='FILE',
        help="SQLite file of the arena's votes; without it they end with the server",
    )
    command_line.add_dtype(parser)
    meanings = {
        'slots': 'answers of a model that are decoded at a time',
        'queue': 'answers of a model that wait at most',
        'prompt_tokens': 'longest prompt; 0: 1024, or what there is room for',
        'answer_tokens': 'longest answer; 0: 1024, or half of the positions',
        'choices': 'most answers to a request',
        'top_logprobs': 'most alternatives of a token',
        'chunk': 'tokens between two looks at the queue; fewer stream more smoothly',
        'prompts': 'prompts that are read at a time',
        'body_bytes': 'largest request',
        'connections': 'requests at a time',
        'seconds': 'longest time of a request, waiting included',
    }
    for field in dataclasses.fields(limits_lib.Limits):
        parser.add_argument(
            f'--{field.name}',
            type=type(field.default),
            default=field.default,
            help=meanings[field.name],
        )
    return parser


if __name__ == '__main__':
    main()
