"""What a server allows."""

import dataclasses
import math

DEFAULT_TOKENS = 1024
MAY_BE_0 = ('queue', 'top_logprobs', 'prompt_tokens', 'answer_tokens')


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a server; each is one of its options.

    Attributes:
      slots: Answers of a model that are decoded at a time.
      queue: Answers of a model that wait at most.
      prompt_tokens: The longest prompt; 0 is 1024, or what the model has room for.
      answer_tokens: The longest answer; 0 is 1024, or half of the model's positions.
      choices: The most answers to a request: n, times its prompts; never more than
        slots and queue have room for.
      top_logprobs: The most alternatives of a token.
      chunk: Tokens between two looks at the clock, the queue and who has left.
      prompts: Prompts, and conversations to score, that are read at a time.
      body_bytes: The largest request.
      connections: Requests at a time.
      seconds: The longest time of a request, waiting included.
    """

    slots: int = 16
    queue: int = 128
    prompt_tokens: int = 0
    answer_tokens: int = 0
    choices: int = 16
    top_logprobs: int = 5
    chunk: int = 4
    prompts: int = 4
    body_bytes: int = 1_000_000
    connections: int = 512
    seconds: float = 300.0

    def __post_init__(self):
        """Refuses values out of range."""
        if not 0 < self.seconds < math.inf:
            raise ValueError(f'--seconds={self.seconds}; must be above 0, and finite.')
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), int(field.name not in MAY_BE_0)
            if field.name != 'seconds' and value < least:
                raise ValueError(f'--{field.name}={value}; must be at least {least}.')

    def within(self, positions: int) -> 'Limits':
        """The limits for a model of so many positions.

        Raises:
          ValueError: Prompt and answer do not fit.
        """
        answer = self.answer_tokens or min(
            DEFAULT_TOKENS, positions // 2, positions - self.prompt_tokens
        )
        prompt = self.prompt_tokens or min(DEFAULT_TOKENS, positions - answer)
        if prompt < 1 or answer < 1 or prompt + answer > positions:
            given = ' and '.join(
                f'--{name}={value}'
                for name in ('prompt_tokens', 'answer_tokens')
                if (value := getattr(self, name))
            )
            raise ValueError(
                f'{given or "prompt and answer"}: prompt and answer do not fit into '
                f'the {positions} positions of the model.'
            )
        return dataclasses.replace(
            self,
            prompt_tokens=prompt,
            answer_tokens=answer,
            prompts=min(self.prompts, self.slots),
            choices=min(self.choices, self.slots + self.queue),
            chunk=min(self.chunk, answer),
        )
