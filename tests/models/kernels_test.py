"""Fused kernels are lowered for their platforms, and compute what XLA does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from beaver_jax import sharding
from beaver_jax.models import attention
from beaver_jax.models import kernels
from benchmarks import cudnn

NAMES = {'cuda': '__cudnn$fmha', 'tpu': 'tpu_custom_call'}


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def lowered(platform, q, k, **changes):
    """The program of the gradients of an attention, as text."""
    rows, _, length, _ = q.shape
    mask = jax.ShapeDtypeStruct((rows, length), bool)

    def attend(q, k, v, mask):
        # With more keys than queries there is a past: a cache, and no pattern.
        seen = jnp.broadcast_to(mask[:, :, None], (rows, length, k.shape[2]))
        cached = k.shape[2] != length
        pattern = None if cached else kernels.pattern(seen, mask)
        out = attention.attend(q, k, v, seen, pattern=pattern, **changes)
        return jnp.sum(out.astype(jnp.float32))

    with cudnn.presumed():
        program = jax.jit(jax.grad(attend)).trace(q, k, k, mask)
        return program.lower(lowering_platforms=(platform,)).as_text()


BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32


@pytest.mark.parametrize(
    ('shape', 'keys', 'dtype', 'fused'),
    [
        ((1, 2, 128, 64), 128, BF16, {'cuda', 'tpu'}),
        ((1, 2, 64, 128), 96, F16, {'cuda'}),  # with a cache
        ((1, 2, 128, 64), 128, F32, {'tpu'}),  # 32 bits are none of cuDNN's
        ((1, 2, 128, 192), 128, BF16, {'tpu'}),  # a head too wide for cuDNN
        ((1, 2, 128, 72), 128, BF16, {'cuda'}),  # 72 is no multiple of 16
        ((1, 2, 128, 60), 128, BF16, set()),  # nor 60 of 8
        ((1, 2, 96, 64), 96, BF16, {'cuda'}),  # no whole block
        ((1, 2, 63, 64), 63, BF16, set()),  # an odd number of queries
        ((1, 2, 1, 64), 64, BF16, set()),  # decoding
    ],
)
def test_a_program_has_the_kernel_of_the_platform_that_it_is_for(
    shape, keys, dtype, fused
):
    q = jax.ShapeDtypeStruct(shape, dtype)
    k = jax.ShapeDtypeStruct((shape[0], 2, keys, shape[3]), dtype)
    for platform in ('cpu', 'cuda', 'tpu'):
        text = lowered(platform, q, k)
        found = {name for name, call in NAMES.items() if call in text}
        assert found == ({platform} & fused)


def test_kernels_are_not_given_what_they_cannot_do():
    q = jax.ShapeDtypeStruct((1, 2, 128, 64), BF16)
    for changes, fused in (
        ({'softcap': 3.0}, {'tpu'}),  # splash knows caps, cuDNN does not
        ({'bias': jnp.zeros((1, 2, 1, 128))}, set()),
    ):
        for platform, call in NAMES.items():
            text = lowered(platform, q, q, **changes)
            assert (call in text) == (platform in fused)


def test_without_cudnn_a_program_for_cuda_is_left_to_xla():
    q = jnp.zeros((1, 2, 128, 64), BF16)
    mask = jnp.ones((1, 128, 128), bool)
    program = jax.jit(attention.attend).trace(q, q, q, mask)
    text = program.lower(lowering_platforms=('cuda',)).as_text()
    assert '__cudnn$fmha' not in text and 'stablehlo.dot_general' in text


def test_on_a_gpu_a_missing_cudnn_is_an_error(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    q = jnp.zeros((1, 2, 130, 64), BF16)  # of a shape that was not traced before
    with pytest.raises(RuntimeError, match='cuDNN is not detected'):
        jax.jit(attention.attend).trace(q, q, q, jnp.ones((1, 130, 130), bool))


LENGTH = 384  # three blocks


def rows():
    """Real tokens: all; after padding; before padding; and between."""
    places = jnp.arange(LENGTH)
    real = [places >= 0, places >= 140, places < 250, (places >= 5) & (places < 260)]
    return jnp.stack(real)


@pytest.mark.parametrize(
    ('meshed', 'packed', 'window', 'softcap'),
    [(True, True, None, None), (False, False, 90, 2.0)],
    ids=['packed, on 2×2×2', 'windowed, on one'],
)
def test_splash_computes_what_xla_does(meshed, packed, window, softcap):
    mask = rows()
    segments = None
    if packed:
        segments = jnp.broadcast_to(jnp.arange(LENGTH) // 100, mask.shape)
    age = attention.ages(0, LENGTH, LENGTH)
    seen = attention.attention_mask(mask, age, segments)
    # Of windowed and other layers the scan tells by a number.
    pattern = kernels.pattern(seen, mask, segments).replace(
        window=window, mixed=window is not None, windowed=jnp.asarray(True)
    )
    near = seen if window is None else attention.near_mask(seen, age, window)
    # Where pads see tokens both agree as well: token-wise losses score such pads.
    read = jnp.any(near & mask[:, None], axis=-1)[:, None, :, None]

    def xla(q, k, v):
        return attention.attend(q, k, v, near, scale=0.3, softcap=softcap)

    def splash(q, k, v):
        given = {'scale': 0.3, 'softcap': softcap, 'interpret': True}
        return kernels.splash(q, k, v, pattern, **given)

    def loss(attend, *heads):
        out = jnp.where(read, attend(*heads), 0.0)
        return jnp.sum(jnp.sin(out)), out

    def found(attend):
        graded = jax.value_and_grad(functools.partial(loss, attend), (0, 1, 2), True)
        heads = (
            random(0, 4, 4, LENGTH, 64),
            *(random(i, 4, 2, LENGTH, 64) for i in (1, 2)),
        )
        (_, out), gradients = jax.jit(graded)(*heads)
        return out, *gradients

    expected = found(xla)
    if meshed:
        with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
            ours = found(splash)
    else:
        ours = found(splash)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize('fits', [kernels.fits_splash, kernels.fits_cudnn])
def test_a_mesh_that_does_not_divide_heads_or_rows_has_no_kernel(fits):
    q, k = (jax.ShapeDtypeStruct((4, heads, 128, 64), BF16) for heads in (4, 1))
    assert fits(q, k)
    with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
        assert fits(q, q)
        assert not fits(q, k)  # one kv head for two devices
    with jax.set_mesh(sharding.make_mesh(8)):
        assert not fits(q, q)  # four rows for eight devices
