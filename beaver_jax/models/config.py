"""The one configuration of the one decoder."""

import dataclasses

import jax.numpy as jnp

REMAT_POLICIES = ('none', 'full', 'dots')
SIZES = (
    'vocab_size',
    'embed_dim',
    'num_layers',
    'num_heads',
    'num_kv_heads',
    'head_dim',
    'mlp_dim',
)
SCORE_TYPES = ('reward', 'cost', 'critic')
NORMALIZER_TYPES = (None, 'RunningMeanStd', 'ExponentialMovingAverage')


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and switches of a decoder; a Hugging Face family is a value of this type.

    Attributes:
      vocab_size: Rows of the embedding (V).
      embed_dim: Width of the residual stream (D).
      num_layers: Decoder blocks (L).
      num_heads: Query heads (N).
      num_kv_heads: Key and value heads (H); divides num_heads.
      head_dim: Width of one head (A).
      mlp_dim: Width of the feed-forward layer (F).
      max_positions: Longest sequence that the model was made for.
      rope_theta: Base of the rotary frequencies.
      norm_eps: Added to the mean square in RMSNorm.
      tie_embeddings: The output projection is the embedding, transposed.
      attention_bias: q, k, v and o have biases.
      mlp_bias: gate, up and down have biases.
      init_std: Standard deviation of fresh weights.
      dtype: Type of activations and matmuls ('float32' or 'bfloat16').
      remat: What the backward pass recomputes: 'none' keeps all activations, 'full'
        keeps only the layers' inputs, 'dots' keeps the matmuls' results as well.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    init_std: float = 0.02
    dtype: str = 'float32'
    remat: str = 'none'

    def __post_init__(self):
        """Refuses sizes that do not fit together."""
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)}; must be at least 1.')
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f'num_kv_heads={self.num_kv_heads} does not divide '
                f'num_heads={self.num_heads}.'
            )
        if self.head_dim % 2:
            raise ValueError(f'head_dim={self.head_dim} is odd; RoPE needs pairs.')
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f'remat={self.remat!r}; known: {REMAT_POLICIES}.')
        jnp.dtype(self.dtype)


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """A score model: a decoder with a linear head, in safe-rlhf's terms.

    Attributes:
      backbone: The decoder.
      score_type: One of SCORE_TYPES; decides the normalization
        (affine, scale, identity).
      score_dim: Outputs of the head.
      score_bias: The head has a bias.
      normalize: Scores leave the model normalized (safe-rlhf's do_normalize).
      normalizer_type: One of NORMALIZER_TYPES.
      momentum: Weight of the old mean in the exponential moving average.
    """

    backbone: TransformerConfig
    score_type: str = 'reward'
    score_dim: int = 1
    score_bias: bool = True
    normalize: bool = False
    normalizer_type: str | None = None
    momentum: float | None = None

    def __post_init__(self):
        """Refuses what no score model has."""
        if self.score_type not in SCORE_TYPES:
            raise ValueError(f'score_type={self.score_type!r}; known: {SCORE_TYPES}.')
        if self.score_dim < 1:
            raise ValueError(f'score_dim={self.score_dim}; must be at least 1.')
        if self.normalizer_type not in NORMALIZER_TYPES:
            raise ValueError(
                f'normalizer_type={self.normalizer_type!r}; known: {NORMALIZER_TYPES}.'
            )
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise ValueError(f'momentum={self.momentum}; must be in [0, 1].')
