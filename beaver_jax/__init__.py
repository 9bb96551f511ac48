"""Safe RLHF in JAX: helpful and harmless language models under constraints."""

import os

# `transformers` serves for its tokenizers, and says at import that PyTorch is missing.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
