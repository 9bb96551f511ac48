"""Programs of 7B models are lowered for CUDA and TPUs, with their kernels."""

import dataclasses

import pytest

from beaver_jax import sharding
from beaver_jax.models import transformer
from benchmarks import lowering
from benchmarks import shapes

# As wide as LLaMA-7B; only deep enough that layers are scanned.
SHAPE = dataclasses.replace(
    shapes.PRESETS['llama-7b'],
    num_layers=transformer.UNROLLED + 1,
    rows=16,
    prompt=64,
    response=64,
)


def test_every_program_of_an_iteration_has_the_kernel_of_its_platform():
    found = lowering.lower(SHAPE, sharding.make_mesh(2, 2, 2))
    kernels = {(row['program'], row['platform']): row for row in found}
    assert len(kernels) == 3 * 2
    for (program, platform), row in kernels.items():
        fused = {'cuda': row['cudnn'], 'tpu': row['splash']}
        other = fused.pop('tpu' if platform == 'cuda' else 'cuda')
        # Prefill reads 64 tokens here, fewer than a block of splash: cuDNN's alone.
        assert (fused[platform] > 0) == ((program, platform) != ('generate', 'tpu'))
        assert other == 0


def test_scoring_and_update_compute_little_more_than_the_work_on_paper():
    ratios = lowering.flops_ratios(SHAPE)
    assert set(ratios) == {'score', 'update'}
    for ratio in ratios.values():
        # Less would mean that something was not counted.
        assert 1 <= ratio < 1.1


def test_the_work_on_paper_by_hand():
    # D = 4, one head of width 4, F = 6: a layer has 4·(2·2·4 + 3·6) = 136 weights. Two
    # rows of 2 + 2 tokens, in which queries meet 1 + 2 + 3 + 4 = 10 keys, each in 4·4
    # FLOPs: 2·(4·2·136 + 160) = 2496 for a pass. Logits of 8 tokens, 2 rows of 2
    # responses each: 4 tokens of 2·4·8 = 64, 256.
    shape = shapes.Shape(8, 4, 1, 1, 1, 6, rows=2, prompt=2, response=2)
    assert shape.flops() == pytest.approx(
        {
            # All tokens but the last of each row, and its logits: 2496 - 2·272 + 256.
            'generate': 2208,
            'score': 3 * 2496 + 256,
            'update': 3 * (3 * 2496 + 256),
        }
    )
