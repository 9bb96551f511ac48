"""Reward and cost models outside of any run: they score conversations."""

from collections.abc import Mapping, Sequence
import threading
from typing import Any

import jax
import numpy as np

from beaver_jax import scoring
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.models import score
from beaver_jax.stages import loading

REWARD = 'reward'
BUCKET = 64  # `told` pads to a multiple of this, so that few shapes are compiled


class ScoreModel:
    """One reward or cost model and its tokenizer."""

    def __init__(self, path: str, dtype: str = 'auto'):
        """Loads a model.

        Raises:
          ValueError: There is no score model.
        """
        self.tokenizer, self.model, self._params = loading.to_score_with(path, dtype)
        self._lock = threading.Lock()
        self._score = jax.jit(self._end_scores)

    @property
    def positions(self) -> int:
        """The longest conversation that it was made for."""
        return self.model.config.backbone.max_positions

    def encode(self, turns: Sequence[str], *, ended: bool = True) -> list[int]:
        """Ids of a conversation that goes user, assistant, …, assistant.

        Args:
          turns: What was said.
          ended: Whether the last answer did; one that was cut has no EOS.
        """
        with self._lock:
            pieces = tokenizer_lib.encode_turns(self.tokenizer, turns)
        ids = [token for piece in pieces for token in piece]
        return ids if ended else ids[:-1]

    def score(self, rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
        """End scores, [B, outputs] as they are, not normalized."""
        tokens: Any = np.full((len(rows), length), self.tokenizer.pad_token_id, 'int32')
        mask: Any = np.zeros(tokens.shape, bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return np.asarray(self._score(self._params, tokens, mask))

    def _end_scores(self, params, tokens, mask):
        unused = score.init_normalizer(self.model.config.score_dim)
        return scoring.end_scores(self.model, params, unused, tokens, mask)


def told(
    models: Mapping[str, ScoreModel], turns: Sequence[str], *, ended: bool = True
) -> str:
    """What models say of a conversation's last answer, in words.

    Args:
      models: By name; `REWARD` is the reward model, all others are cost models.
      turns: User, assistant, …, assistant. Where they are too many tokens for a model,
        it does not see the oldest.
      ended: Whether the last answer did. One that did not, and has no text, is none.
    """
    if not ended and not turns[-1]:
        return 'no answer to score'
    return ', '.join(_told(*named, turns, ended) for named in models.items())


def _told(name: str, model: ScoreModel, turns: Sequence[str], ended: bool) -> str:
    what = name if name == REWARD else f'cost {name}'
    ids = model.encode(turns, ended=ended)
    while len(ids) > model.positions and len(turns) > 2:
        turns = turns[2:]
        ids = model.encode(turns, ended=ended)
    if len(ids) > model.positions:
        return f'{what}: {len(ids)} tokens are more than its {model.positions}'
    length = min(-(-len(ids) // BUCKET) * BUCKET, model.positions)
    (scores,) = model.score([ids], length).tolist()
    numbers = ' '.join(f'{one:.2f}' for one in scores)
    if name == REWARD:
        return f'{what} {numbers}'
    return f'{what} {numbers}, {"unsafe" if max(scores) > 0 else "safe"}'
