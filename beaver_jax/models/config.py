"""The one configuration of the one decoder."""

import dataclasses

import jax.numpy as jnp

REMAT_POLICIES = ('none', 'full', 'dots')
NORMS = ('rms', 'layer')
POSITIONS = ('rope', 'learned', 'alibi')
ACTIVATIONS = ('silu', 'gelu', 'gelu_tanh', 'relu')
RESIDUALS = ('sequential', 'parallel', 'parallel_shared_norm')
ROPE_SCALINGS = ('linear', 'llama3', 'yarn')
SIZES = (
    'vocab_size',
    'embed_dim',
    'num_layers',
    'num_heads',
    'num_kv_heads',
    'head_dim',
    'mlp_dim',
    'vocab_multiple',
)
SCORE_TYPES = ('reward', 'cost', 'critic')
NORMALIZER_TYPES = (None, 'RunningMeanStd', 'ExponentialMovingAverage')


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for more positions than were trained.

    Attributes:
      kind: 'linear' divides all frequencies by the factor; 'llama3' (LLaMA 3.1) only
        the slow ones; 'yarn' is arXiv 2309.00071.
      factor: How many times more positions, above 0.
      original_positions: Positions before the stretch; of llama3 and yarn.
      low_freq_factor: Of llama3: waves longer than original_positions / this are slow.
      high_freq_factor: Of llama3: waves shorter than original_positions / this stay.
      beta_fast: Of yarn: more rotations than this over the original positions stay.
      beta_slow: Of yarn: fewer rotations than this are slow.
      attention_factor: Of yarn, multiplies cosines and sines; None for the paper's.
    """

    kind: str
    factor: float
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self):
        """Refuses values out of range."""
        if self.kind not in ROPE_SCALINGS:
            raise ValueError(
                f'RoPE scaling {self.kind!r} is not known; known: default, '
                f'{", ".join(ROPE_SCALINGS)}.'
            )
        if not self.factor > 0:
            raise ValueError(f'RoPE scaling factor={self.factor}; must be above 0.')
        if self.kind != 'linear' and self.original_positions < 1:
            raise ValueError(
                f'RoPE scaling {self.kind!r} needs original_max_position_embeddings.'
            )


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and switches of a decoder; a Hugging Face family is a value of this type.

    Attributes:
      vocab_size: Tokens that have a logit (V).
      embed_dim: Width of the residual stream (D).
      num_layers: Decoder blocks (L).
      num_heads: Query heads (N).
      num_kv_heads: Key and value heads (H); divides num_heads.
      head_dim: Width of one head (A).
      mlp_dim: Width of the feed-forward layer (F).
      max_positions: Longest sequence that the model was made for.
      family: model_type of the Hugging Face family whose names and config.json it
        is written with.
      positions: 'rope' rotates queries and keys, 'learned' adds an embedding, 'alibi'
        takes from attention in proportion to the distance (arXiv 2108.12409).
      position_offset: Rows before position 0 in a learned table.
      rope_theta: Base of the rotary frequencies.
      rope_scaling: How they are stretched, or None.
      rotary_dim: Leading dimensions of a head that are rotated; None for all.
      rope_interleaved: Pairs stand side by side, not half a head apart.
      norm: 'rms' (arXiv 1910.07467) or 'layer' (arXiv 1607.06450).
      norm_eps: Added to the mean square, or to the variance.
      norm_offset: Added to the scales of RMSNorm.
      norm_first: A block norms its inputs; if not, the sums after them.
      final_norm: The last hidden states are normed.
      post_norms: Outputs of attention and feed-forward are normed as well.
      qk_norm: Each head's queries and keys are normed (RMSNorm) before rotation.
      embed_norm: The embeddings are normed.
      residual: 'sequential', or 'parallel': attention and feed-forward read the same
        stream, each through a norm of its own, or through one.
      activation: Of the feed-forward layer.
      gated: The feed-forward layer is gated (arXiv 2002.05202).
      qkv_bias: q, k and v have biases.
      o_bias: The attention's output projection has a bias.
      mlp_bias: The feed-forward projections have biases.
      head_bias: The projection to logits has a bias.
      tie_embeddings: The output projection is the embedding, transposed.
      embed_width: Width of embeddings and final hidden states where it is not
        embed_dim; linear maps stand between.
      embed_scale: Multiplies the embeddings.
      attention_scale: Multiplies q·k; None is 1/√A.
      attention_softcap: c·tanh(x/c) bounds attention logits; None for no bound.
      logit_softcap: The same for the output logits.
      window: Queries see only this many last tokens in windowed layers; None for all.
      windowed: Whether each layer is windowed; () for all.
      vocab_multiple: Embedding and output projection are padded to a multiple of so
        many tokens, for the mesh to divide them. Padding has no logits, is never
        sampled and never exported.
      init_std: Standard deviation of fresh weights.
      dtype: Type of activations and matmuls ('float32' or 'bfloat16').
      remat: What the backward pass recomputes: 'none' keeps all activations, 'full'
        keeps only the layers' inputs, 'dots' keeps the matmuls' results as well.
      logits_chunk: Tokens whose logits are in memory at a time where tokens are scored;
        0 for all, None for a number that suits the vocabulary.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    max_positions: int = 2048
    family: str = 'llama'
    positions: str = 'rope'
    position_offset: int = 0
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None
    rope_interleaved: bool = False
    norm: str = 'rms'
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    norm_first: bool = True
    final_norm: bool = True
    post_norms: bool = False
    qk_norm: bool = False
    embed_norm: bool = False
    residual: str = 'sequential'
    activation: str = 'silu'
    gated: bool = True
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    tie_embeddings: bool = False
    embed_width: int | None = None
    embed_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    window: int | None = None
    windowed: tuple[bool, ...] = ()
    vocab_multiple: int = 1
    init_std: float = 0.02
    dtype: str = 'float32'
    remat: str = 'none'
    logits_chunk: int | None = None

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
        if self.positions == 'rope':
            self._check_rotation()
        for name, known in (
            ('positions', POSITIONS),
            ('norm', NORMS),
            ('residual', RESIDUALS),
            ('activation', ACTIVATIONS),
            ('remat', REMAT_POLICIES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f'{name}={getattr(self, name)!r}; known: {known}.')
        if self.windowed and len(self.windowed) != self.num_layers:
            raise ValueError(
                f'windowed has {len(self.windowed)} entries for '
                f'num_layers={self.num_layers} layers.'
            )
        if self.logits_chunk is not None and self.logits_chunk < 0:
            raise ValueError(f'logits_chunk={self.logits_chunk}; must not be negative.')
        if self.window is not None and self.window < 1:
            raise ValueError(f'window={self.window}; must be at least 1.')
        jnp.dtype(self.dtype)

    def _check_rotation(self):
        name = 'head_dim' if self.rotary_dim is None else 'rotary_dim'
        width = getattr(self, name)
        if width % 2:
            raise ValueError(f'{name}={width} is odd; RoPE needs pairs.')
        if not 0 < width <= self.head_dim:
            raise ValueError(f'{name}={width} is not within head_dim={self.head_dim}.')

    @property
    def rotated(self) -> int:
        """Dimensions of a head that are rotated."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding, padding included."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def hidden_width(self) -> int:
        """Width of embeddings and final hidden states."""
        return self.embed_dim if self.embed_width is None else self.embed_width

    def layer_windows(self) -> tuple[bool, ...]:
        """Whether each layer sees a window only."""
        if self.window is None:
            return (False,) * self.num_layers
        return self.windowed or (True,) * self.num_layers


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
