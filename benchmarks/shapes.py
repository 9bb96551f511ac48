"""Sizes of the benchmarks of reinforcement learning, and their work on paper."""

import dataclasses

PHASES = ('generate', 'score', 'update')


@dataclasses.dataclass(frozen=True)
class Shape:
    """A LLaMA and a rollout batch of it; every response has the full length.

    Attributes:
      vocab_size: V.
      embed_dim: D.
      num_layers: L.
      num_heads: N, of D / N dimensions each.
      num_kv_heads: H.
      mlp_dim: F.
      rows: B, prompts of an iteration.
      prompt: P, tokens.
      response: G, tokens.
      dtype: Of computation, and of parameters that do not learn.
      remat: What the backward pass recomputes; see `TransformerConfig`.
      chunks: Parts in which rows are scored and learnt from.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    rows: int
    prompt: int
    response: int
    dtype: str = 'float32'
    remat: str = 'none'
    chunks: int = 1

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.response

    def parameters(self) -> int:
        """Weights of all matrices, embedding and head included."""
        return self.num_layers * self._layer + 2 * self.embed_dim * self.vocab_size

    @property
    def _layer(self) -> int:
        """Weights of a layer's matrices."""
        width = self.embed_dim // self.num_heads
        inner = self.num_heads + self.num_kv_heads
        return self.embed_dim * (2 * inner * width + 3 * self.mlp_dim)

    def flops(self) -> dict[str, float]:
        """What a phase must compute at least, by matmuls alone.

        Three models score, three learn, for three forward passes each. Logits are of
        response tokens only, and a query meets the keys before it.
        """
        dense = 2 * self.num_layers * self._layer  # of a token
        head = 2 * self.embed_dim * self.vocab_size
        pairs = self.length * (self.length + 1) / 2
        attention = 4 * self.num_layers * self.embed_dim * pairs  # of a row
        body = self.rows * (self.length * dense + attention)
        logits = self.rows * self.response * head
        return {
            'generate': body - self.rows * dense + logits,
            'score': 3 * body + logits,
            'update': 3 * (3 * body + logits),
        }


PRESETS = {
    # 6.8 million parameters.
    'cpu': Shape(4096, 256, 6, 8, 8, 680, rows=32, prompt=64, response=64, chunks=4),
    # As configs/ppo_lag.py:llama-7b, without PTX.
    'llama-7b': Shape(
        32_000,
        4096,
        32,
        32,
        32,
        11_008,
        rows=128,
        prompt=256,
        response=256,
        dtype='bfloat16',
        remat='full',
        chunks=4,
    ),
    'llama-70b': Shape(
        32_000,
        8192,
        80,
        64,
        8,
        28_672,
        rows=512,
        prompt=256,
        response=256,
        dtype='bfloat16',
        remat='full',
        chunks=8,
    ),
}
