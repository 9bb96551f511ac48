"""Every row of real files is usable."""

import pytest

from beaver_jax.data import sources


@pytest.mark.parametrize(
    ('file', 'need', 'size'),
    [
        ('pku_saferlhf/train.jsonl', 'better', 100),
        ('pku_saferlhf/train.jsonl', 'safer', 100),
        ('pku_saferlhf/train.7field.jsonl', 'safer', 100),
        ('pku_saferlhf_mixed/mixed5k.sample2000.jsonl', 'safer', 2000),
        ('helpsteer_pairs/helpfulness_preference_test.jsonl', 'better', 1045),
    ],
)
def test_real_comparisons(shared_data, file, need, size):
    found = sources.comparisons(
        shared_data / file, need=need, on_bad_row='error', contradictions='error'
    )
    assert len(found) == size


@pytest.mark.parametrize(
    ('file', 'size'),
    [
        ('pku_saferlhf_mixed/pku_safe_sft.json', 5188),
        ('alpaca_sft/alpaca_en_demo.json', 999),
    ],
)
def test_real_demonstrations(shared_data, file, size):
    found = sources.demonstrations(shared_data / file, on_bad_row='error')
    assert len(found) == size
