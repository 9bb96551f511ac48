"""Eight fake devices give the metrics of one."""

import json

import numpy as np
import pytest

from beaver_jax import metrics


@pytest.mark.parametrize('stage', ['sft', 'cost', 'reward', 'ppo_lag'])
def test_metrics_are_the_same(stage, chain, one_device):
    runs = (one_device.wait(), chain)
    one, eight = (metrics.read(run / stage / metrics.METRICS) for run in runs)
    assert len(one) == len(eight) >= 4
    for row, other in zip(one, eight, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            # Sums in another order: about 1e-7 of the largest term.
            assert other[name] == pytest.approx(row[name], rel=1e-5, abs=2e-6), name


def test_the_same_tokens_are_sampled(chain, one_device):
    runs = (one_device.wait(), chain)
    # All samples of the last policy on held-out prompts, at temperature 1.
    one, eight = ((run / 'evaluate' / 'samples.jsonl').read_text() for run in runs)
    for line, other in zip(one.splitlines(), eight.splitlines(), strict=True):
        row, same = json.loads(line), json.loads(other)
        for name, answer in row['answers'].items():
            assert same['answers'][name]['text'] == answer['text']
            np.testing.assert_allclose(
                same['answers'][name]['reward'], answer['reward'], rtol=1e-5, atol=2e-6
            )
