"""What requests hold, as far as this server serves OpenAI's API.

An entry that is null is one that is not there. Fields of OpenAI's that this server
lacks are taken where they ask for nothing; others are refused, not ignored.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic

from beaver_jax.serve import errors

_NOTHING: dict[str, tuple[Any, ...]] = {
    'audio': (),
    'annotations': ([],),
    'best_of': (1,),
    'echo': (False,),
    'frequency_penalty': (0,),
    'function_call': ('none', 'auto'),
    'functions': ([],),
    'include_obfuscation': (False,),
    'logit_bias': ({},),
    'modalities': (['text'],),
    'parallel_tool_calls': (True, False),
    'presence_penalty': (0,),
    'refusal': (),
    'response_format': ({'type': 'text'},),
    'service_tier': ('auto', 'default'),
    'store': (False,),
    'suffix': ('',),
    'tool_calls': ([],),
    'tool_choice': ('none', 'auto'),
    'tools': ([],),
}
# Of the client's own use.
_IGNORED = ('metadata', 'user', 'safety_identifier', 'prompt_cache_key')


def _whole(text: str) -> str:
    """Refuses half of a character, which JSON can write but UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError('a character is not whole (a lone surrogate)') from error
    return text


Text = Annotated[str, pydantic.AfterValidator(_whole)]


class Strict(pydantic.BaseModel):
    """Refuses what it does not know, and wrong types."""

    model_config = pydantic.ConfigDict(
        extra='forbid', strict=True, allow_inf_nan=False, frozen=True
    )

    @pydantic.model_validator(mode='before')
    @classmethod
    def _leave_out(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values

        def counts(name: str, value: Any) -> bool:
            if value is None or name in _IGNORED:
                return False
            return name in cls.model_fields or value not in _NOTHING.get(name, ())

        return {name: value for name, value in values.items() if counts(name, value)}


class Part(Strict):
    """A part of a message's content."""

    type: Literal['text']
    text: Text


class Message(Strict):
    """A turn of a conversation."""

    role: Text
    content: Text | list[Part]

    @property
    def text(self) -> str:
        """What is said."""
        if isinstance(self.content, str):
            return self.content
        return ''.join(part.text for part in self.content)


class StreamOptions(Strict):
    """How an answer is streamed."""

    include_usage: bool = False


Stop = Annotated[Text, pydantic.Field(min_length=1, max_length=200)]
Turns = Annotated[list[Message], pydantic.Field(min_length=1, max_length=1000)]


class _Sampled(Strict):
    model: Text
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    n: Annotated[int, pydantic.Field(ge=1)] = 1
    repetition_penalty: Annotated[float, pydantic.Field(gt=0, le=100)] = 1.0
    seed: Annotated[int, pydantic.Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], pydantic.Field(max_length=4)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] = 1.0
    top_k: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(_Sampled):
    """Of /v1/chat/completions."""

    messages: Turns
    max_completion_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, pydantic.Field(ge=0, le=20)] = 0


Ids = Annotated[
    list[Annotated[int, pydantic.Field(ge=0, lt=2**31)]], pydantic.Field(min_length=1)
]
Texts = Annotated[list[Text], pydantic.Field(min_length=1)]
ManyIds = Annotated[list[Ids], pydantic.Field(min_length=1)]


class CompletionRequest(_Sampled):
    """Of /v1/completions."""

    prompt: Text | Texts | Ids | ManyIds
    logprobs: Annotated[int, pydantic.Field(ge=0, le=20)] | None = None


class ScoreRequest(Strict):
    """Of /v1/score: one conversation, or several."""

    messages: Turns | None = None
    conversations: (
        Annotated[list[Turns], pydantic.Field(min_length=1, max_length=256)] | None
    ) = None
    ended: bool = True  # whether the last answers did; what was cut has no EOS


def conversation(messages: Sequence[Message], *, ends_with: str) -> tuple[str, ...]:
    """The turns of messages that go user, assistant, user, and so on.

    Raises:
      ApiError: They go otherwise.
    """
    roles = ('user', 'assistant')
    for i, message in enumerate(messages):
        if message.role != roles[i % 2]:
            raise errors.ApiError(
                400,
                f'messages[{i}].role is {message.role!r}, not {roles[i % 2]!r}: the '
                "models' conversations go user, assistant, user, … with no others.",
                param='messages',
            )
    if messages[-1].role != ends_with:
        raise errors.ApiError(
            400,
            f'The last message must be of {ends_with!r}.',
            param='messages',
        )
    return tuple(message.text for message in messages)
