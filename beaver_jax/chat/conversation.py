"""A conversation with one model, or the same one with several, and its commands."""

from collections.abc import Callable, Mapping
from typing import Any

from beaver_jax.chat import talker as talker_lib
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.stages import score_model as score_model_lib

COMMANDS = {
    '/reset': 'forgets the conversation',
    '/regenerate': 'answers anew',
    '/clear': 'clears the screen',
    '/score': 'reward and costs of the last answers',
    '/help': '',
    '/quit': '',
}
HELP = ', '.join(f'{name} {meaning}'.rstrip() for name, meaning in COMMANDS.items())


class Conversation:
    """What was said to models, and what each of them has answered."""

    def __init__(
        self,
        talkers: Mapping[str, talker_lib.Talker],
        score_models: Mapping[str, score_model_lib.ScoreModel],
        *,
        labels: Mapping[str, str],
        write: Callable[[str], Any],
        warn: Callable[[str], Any],
        clear: Callable[[], Any],
    ):
        """Begins one.

        Args:
          talkers: Models that answer, by name. Each goes on from its own answers.
          score_models: Of `/score`; `score_model.REWARD` is the reward model, all
            others are cost models.
          labels: What stands before the answers of each model.
          write: Shows text.
          warn: Tells what is wrong, in lines.
          clear: Clears the screen.
        """
        self._talkers, self._score_models = talkers, score_models
        self._labels, self._write, self._warn, self._clear = labels, write, warn, clear
        self._turns: dict[str, list[str]] = {name: [] for name in talkers}
        self._ended: dict[str, bool] = {}  # whether the last answer came to its end

    def converse(self, read: Callable[[str], str]) -> None:
        """Answers what is read until /quit or the end of the input."""
        while True:
            try:
                line = read('USER: ').strip()
            except (EOFError, KeyboardInterrupt):
                self._write('\n')
                return
            if line in ('/quit', '/exit'):
                return
            try:
                if line.startswith('/'):
                    self._obey(line)
                elif line:
                    self.ask(line)
            except KeyboardInterrupt:  # outside of an answer, as while scoring
                self._write('\n')

    def ask(self, question: str) -> None:
        """Lets every model answer."""
        for turns in self._turns.values():
            turns.append(question)
        self._answer()

    def score(self) -> None:
        """Writes what the score models say of the last answers, a line each."""
        for name, turns in self._turns.items():
            said = score_model_lib.told(
                self._score_models, turns, ended=self._ended[name]
            )
            before = f'{name}: ' if len(self._talkers) > 1 else ''
            self._write(f'({before}{said})\n')

    def _obey(self, command: str) -> None:
        if command == '/reset':
            for turns in self._turns.values():
                turns.clear()
            self._write('The conversation is forgotten.\n')
        elif command == '/clear':
            self._clear()
        elif command in ('/regenerate', '/score') and not any(self._turns.values()):
            self._write('There is no answer yet.\n')
        elif command == '/regenerate':
            for turns in self._turns.values():
                turns.pop()
            self._answer()
        elif command == '/score' and not self._score_models:
            self._write('There is no score model; start with --reward or --cost.\n')
        elif command == '/score':
            self.score()
        else:
            known = command == '/help'
            self._write(('' if known else f'{command} is no command. ') + HELP + '\n')

    def _answer(self) -> None:
        for name, talker in self._talkers.items():
            turns = self._turns[name]
            answer, ended = self._answer_of(talker, tuple(turns), self._labels[name])
            turns.append(answer)
            self._ended[name] = ended

    def _answer_of(
        self, talker: talker_lib.Talker, turns: tuple[str, ...], label: str
    ) -> tuple[str, bool]:
        """Writes an answer until its end or Ctrl-C.

        Returns:
          (the answer as far as it came, whether it came to its end).
        """
        shown: list[str] = []

        def show(text: str) -> None:
            shown.append(text)
            self._write(text)

        try:
            ids = tokenizer_lib.encode_prompt(
                talker.tokenizer, turns, max_length=talker.context
            )
            if told := talker_lib.told_cut(talker, turns, ids):
                self._warn(told)
            self._write(label)
            return talker_lib.print_stream(talker, ids, show, raw=False), talker.ended
        except KeyboardInterrupt:
            self._write('\n')
            return ''.join(shown), False
