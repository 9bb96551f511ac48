"""Settings of a judge, each one checked."""

import dataclasses
import math
import os

import httpx

from beaver_jax.evaluate.judges import prompts

PAIRS = ('baseline', 'all')
# At least, at most, and whether a value must be whole.
_RANGES: dict[str, tuple[float, float]] = {
    'max_tokens': (1, math.inf),
    'concurrency': (1, 256),
    'requests_per_minute': (0, math.inf),
    'timeout': (0.001, math.inf),
    'attempts': (1, 100),
    'backoff': (0, 3600),
    'max_calls': (1, math.inf),
    'max_total_tokens': (0, math.inf),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of config.judge; `meanings.py` says what they mean.

    Raises:
      ValueError: One is out of range; it begins with FIELD=VALUE.
    """

    url: str
    model: str
    key_variable: str
    dimensions: str
    pairs: str
    temperature: float
    max_tokens: int
    max_tokens_key: str
    concurrency: int
    requests_per_minute: float
    timeout: float
    attempts: int
    backoff: float
    max_calls: int
    max_total_tokens: int

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                to = '' if math.isinf(high) else f' and at most {high:g}'
                raise ValueError(f'{name}={value}; must be at least {low:g}{to}.')
        if not math.isfinite(self.temperature):
            raise ValueError(f'temperature={self.temperature}; must be a number.')
        if self.pairs not in PAIRS:
            raise ValueError(f'pairs={self.pairs!r}; known: {", ".join(PAIRS)}.')
        known = ', '.join(prompts.CRITERIA)
        if not self.axes or not set(self.axes) <= prompts.CRITERIA.keys():
            raise ValueError(
                f'dimensions={self.dimensions!r}; name one or more of {known}.'
            )
        self._check_endpoint()

    @property
    def on(self) -> bool:
        """Whether there is a judge at all."""
        return bool(self.url and self.model)

    @property
    def axes(self) -> tuple[str, ...]:
        """The dimensions, each once."""
        names = (name.strip() for name in self.dimensions.split(','))
        return tuple(dict.fromkeys(name for name in names if name))

    def _check_endpoint(self) -> None:
        if bool(self.url) != bool(self.model):
            missing = 'model' if self.url else 'url'
            raise ValueError(
                f"{missing}='' but the judge's other half is given; set both "
                '--config.judge.url and --config.judge.model, or neither.'
            )
        if not self.url:
            return
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f'url={self.url!r} is no URL ({error}).') from error
        if url.userinfo or url.query:
            # Not shown: it may hold a secret.
            raise ValueError(
                'url=… has a user, a password or a query in it; a key comes from the '
                'environment, --config.judge.key_variable=NAME.'
            )
        if url.scheme not in ('http', 'https') or not url.host:
            raise ValueError(
                f'url={self.url!r} is no base URL; it looks like https://HOST/v1.'
            )

    def key(self) -> str:
        """The API key, from the environment; '' for an endpoint without one.

        Raises:
          ValueError: The variable is not set, or holds what no header can.
        """
        if not self.key_variable:
            return ''
        key = os.environ.get(self.key_variable, '').strip()
        if not key or not key.isascii() or not key.isprintable():
            what = 'holds no key' if key else 'is not set in the environment'
            raise ValueError(
                f'config.judge.key_variable={self.key_variable!r} {what}; export it, '
                'or set '
                '--config.judge.key_variable= for an endpoint that needs none.'
            )
        return key
