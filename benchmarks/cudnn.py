"""Lowering for cuDNN on a machine without it."""

from collections.abc import Iterator
import contextlib
from unittest import mock

from jax._src.cudnn import fused_attention_stablehlo


@contextlib.contextmanager
def presumed(version: int = 91000) -> Iterator[None]:
    """Tells jax that there is cuDNN of this version (9.10.0).

    While it traces, jax asks the library which version it is, to refuse what an old
    one cannot do, and refuses everything where there is none. The program does not
    depend on the answer. There is no public name for it.
    """
    with mock.patch.object(
        fused_attention_stablehlo, 'check_cudnn_version', lambda: version
    ):
        yield
