"""Trains tokenizers of models from scratch: byte-pair encodings, by sentencepiece."""

from collections.abc import Iterable, Sequence
import io
import json
import os
import pathlib

import sentencepiece
import tokenizers

from beaver_jax.data import tokenizer as tokenizer_lib

UNK, BOS, EOS, PAD = range(4)  # ids, as LLaMA numbers them


def train(
    texts: Iterable[str], directory: str | os.PathLike[str], *, vocab_size: int
) -> None:
    """Trains a BPE sentencepiece model; writes a directory for `tokenizer.load`.

    The model keeps every space and adds none, so text survives a round trip; characters
    that `texts` lacks become the unknown token. The same texts give the same bytes.

    Args:
        texts: what to train on.
        directory: gets tokenizer.model, tokenizer.json and tokenizer_config.json; made
            if missing.
        vocab_size: number of pieces, the four special ones (unknown, BOS, EOS, padding
            with ids 0 to 3) included.

    Raises:
        ValueError: `texts` cannot fill a vocabulary of this size, or it is too small
            for their characters.
    """
    texts = list(texts)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type='bpe',
            vocab_size=vocab_size,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=PAD,
            normalization_rule_name='identity',
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            character_coverage=1.0,
            # Longer texts would be left out without a word.
            max_sentence_length=10 + max((len(t.encode()) for t in texts), default=0),
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition('] ')[2] or error
        raise ValueError(
            f'vocab_size={vocab_size} does not suit these {len(texts)} texts: {reason}'
        ) from error
    _write(model.getvalue(), pathlib.Path(directory))


def _write(model: bytes, directory: pathlib.Path) -> None:
    """Writes a sentencepiece model, and the same one in the form of `tokenizers`."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / 'tokenizer.model').write_bytes(model)
    with tokenizer_lib.os_errors(directory):
        _fast_tokenizer(pieces).save(str(directory / 'tokenizer.json'))
    config = {
        # The class that takes tokenizer.json as it stands; LlamaTokenizer would put a
        # space before every text and drop unknown characters.
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'unk_token': pieces[UNK],
        'bos_token': pieces[BOS],
        'eos_token': pieces[EOS],
        'pad_token': pieces[PAD],
        'clean_up_tokenization_spaces': False,
    }
    (directory / 'tokenizer_config.json').write_text(json.dumps(config, indent=2))


def _fast_tokenizer(pieces: Sequence[str]) -> tokenizers.Tokenizer:
    """A tokenizer that gives sentencepiece's own ids, and BOS first on request.

    Sentencepiece merges the neighbours whose union has the best score, that is, the
    smallest id. So the merges are all splits of each piece into two, in id order.
    """
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:k], piece[k:])
        for piece in pieces[PAD + 1 :]
        for k in range(1, len(piece))
        if piece[:k] in ids and piece[k:] in ids
    ]
    fast = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=ids, merges=merges, unk_token=pieces[UNK], fuse_unk=True
        )
    )
    fast.normalizer = tokenizers.normalizers.Replace(' ', '▁')
    fast.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace('▁', ' '), tokenizers.decoders.Fuse()]
    )
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single=f'{pieces[BOS]} $A', special_tokens=[(pieces[BOS], BOS)]
    )
    fast.add_special_tokens(
        [tokenizers.AddedToken(piece, special=True) for piece in pieces[: PAD + 1]]
    )
    return fast
