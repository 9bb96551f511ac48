"""Exported directories as `transformers` reads them, in several files and any type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from beaver_jax.data import bpe
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.stages import outputs
from tests import tiny
from tests.parity import side_by_side

TEXTS = ['How do I bake bread?', 'Mix flour, water and salt; wait; bake.'] * 50


@pytest.mark.parametrize('dtype', outputs.DTYPES)
def test_files_of_any_size_and_type_load(dtype, tmp_path):
    bpe.train(TEXTS, tmp_path / 'tokenizer', vocab_size=61)
    tokenizer = tokenizer_lib.load(tmp_path / 'tokenizer')
    model, params = tiny.causal_lm(vocab_size=len(tokenizer))
    form = outputs.Form(dtype, shard_bytes=3000, card='# A model\n')
    outputs.export_causal_lm(model, params, tokenizer, tmp_path / 'out', form)
    assert len(list((tmp_path / 'out').glob('model-*-of-*.safetensors'))) > 2
    assert (tmp_path / 'out' / 'README.md').read_text() == '# A model\n'

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
    assert theirs.dtype == getattr(torch, dtype)
    rounded = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params)
    tokens, mask = side_by_side.batch()
    tokens = tokens % len(tokenizer)
    expected = side_by_side.torch_logits(theirs.float().eval(), tokens, mask)
    found = side_by_side.jax_logits(model, rounded, tokens, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)
    same = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    assert same.get_vocab() == tokenizer.get_vocab()
