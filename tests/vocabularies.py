"""Small tokenizers of several kinds, made for tests of what depends on the kind."""

import json
import pathlib
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers
import transformers

from beaver_jax.data import bpe
from beaver_jax.data import tokenizer

TEXTS = [
    'BEGINNING OF CONVERSATION: USER: How do I bake bread? ASSISTANT:Mix the flour.',
    'BEGINNING OF CONVERSATION: USER: Who is there? ASSISTANT:I cannot say.\nAsk me.',
    'See the bookkeeper, see the book, knead the dough.',
] * 20
# What each family says of its special tokens. GPT-2 has one token for all, OPT begins
# every text with the one that ends it, Qwen2 has no BOS, LLaMA no padding.
SPECIAL: dict[str, dict[str, Any]] = {
    'gpt2': {'bos_token': '<|endoftext|>', 'eos_token': '<|endoftext|>'},
    'gpt_neox': {'bos_token': '<|endoftext|>', 'eos_token': '<|endoftext|>'},
    'qwen2': {'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>'},
    'opt': {'bos_token': '</s>', 'eos_token': '</s>', 'pad_token': '<pad>'},
    'llama': {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'},
}
CLASSES = {
    'gpt2': 'GPT2Tokenizer',
    'gpt_neox': 'GPTNeoXTokenizer',
    'qwen2': 'Qwen2Tokenizer',
    'opt': 'GPT2Tokenizer',
    'llama': 'PreTrainedTokenizerFast',
}

# Every character is a piece, so that lengths can be counted by hand.
ALPHABET = 'BEGINOFCVRSATU :abcdefghijklmnopqrstuvwxyzW?.0123456789'


def characters(directory: pathlib.Path) -> transformers.PreTrainedTokenizerBase:
    """A tokenizer of single characters, trained into a directory."""
    size = 4 + len(set(ALPHABET))
    bpe.train([ALPHABET], directory, vocab_size=size)
    return tokenizer.load(directory)


def byte_level(
    directory: pathlib.Path, kind: str, *, size: int = 330, **settings: Any
) -> pathlib.Path:
    """Trains a byte-level BPE with a family's special tokens; returns its directory.

    Args:
      directory: Gets tokenizer.json and tokenizer_config.json; made if missing.
      kind: A family in SPECIAL.
      size: Of the vocabulary, the special tokens included.
      **settings: Of tokenizer_config.json, such as `chat_template`; None removes one.
    """
    special = SPECIAL[kind]
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=sorted(set(special.values())),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    directory.mkdir(parents=True, exist_ok=True)
    fast.save(str(directory / 'tokenizer.json'))
    config = {'tokenizer_class': CLASSES[kind]} | special | settings
    kept = {name: value for name, value in config.items() if value is not None}
    (directory / 'tokenizer_config.json').write_text(json.dumps(kept))
    return directory
