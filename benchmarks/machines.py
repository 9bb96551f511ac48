"""Public speeds of accelerators, and what takes longest on them if each is reached.

v5p: Google's system architecture page (459 TFLOP/s of bfloat16, 95 GiB of memory at
2,765 GB/s, 1,200 GB/s between chips, both ways together: six links of a torus, 100 GB/s
each way). H100 SXM: NVIDIA's data sheet (989 TFLOP/s dense, 80 GB at 3.35 TB/s, NVLink
900 GB/s both ways), in hosts of eight with a 400 Gbit/s InfiniBand port by GPU.
"""

from collections.abc import Mapping
import dataclasses
import math

from benchmarks import shapes

PARTS = ('arithmetic', 'memory', 'links')


@dataclasses.dataclass(frozen=True)
class Machine:
    """Many accelerators.

    Attributes:
      name: Of it.
      flops: A second, bfloat16.
      memory: Bytes of a device.
      bandwidth: Bytes a second of its memory.
      host: Devices that its fast links connect.
      inner: Bytes a second that a device sends within a host.
      outer: Between hosts.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    host: int
    inner: float
    outer: float

    def link(self, mesh: Mapping[str, int], axes: tuple[str, ...]) -> float:
        """Bytes a second that a device sends in a ring along axes.

        Where the ring spans hosts, its devices of one host share their ports.
        """
        stride, span, inside = 1, 1, 1
        for axis in reversed(tuple(mesh)):
            if axis in axes:
                fits = max(1, min(mesh[axis], self.host // stride))
                inside *= fits
                span = stride * mesh[axis]
            stride *= mesh[axis]
        if span <= self.host:
            return self.inner
        return min(self.inner, self.outer * inside)


TPU_V5P = Machine(
    'TPU v5p', 459e12, 95 * 2**30, 2.765e12, host=2**31, inner=2 * 100e9, outer=0
)
H100 = Machine('H100', 989e12, 80e9, 3.35e12, host=8, inner=450e9, outer=50e9)
ALL = (TPU_V5P, H100)


def seconds(
    machine: Machine,
    shape: shapes.Shape,
    mesh: Mapping[str, int],
    phase: str,
    sent: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """Of each of PARTS, if nothing else held it up.

    Args:
      machine: Whose speeds count.
      shape: Of the model and its rows.
      mesh: Sizes of its axes, in order.
      phase: Of `shapes.PHASES`.
      sent: Bytes that a device sends by kind and axes.
    """
    devices = math.prod(mesh.values())
    work = shape.flops()[phase]
    if phase == 'update' and shape.remat == 'full':
        work *= 4 / 3  # a forward pass more
    return {
        'arithmetic': work / devices / machine.flops,
        'memory': reads(shape, phase, mesh) / machine.bandwidth,
        'links': sum(
            size / machine.link(mesh, tuple(axes.split('×')))
            for along in sent.values()
            for axes, size in along.items()
            if axes
        ),
    }


def reads(shape: shapes.Shape, phase: str, mesh: Mapping[str, int]) -> float:
    """Bytes that a device reads in a rollout's steps; of other phases 0 is said.

    A step reads the parameters as they are computed with, whole but for the tensor
    axis, and keys and values of the tokens so far.
    """
    if phase != 'generate':
        return 0.0
    width = shape.embed_dim // shape.num_heads
    parameters = shape.parameters() / mesh['tensor'] * 2
    token = 2 * shape.num_layers * shape.num_kv_heads * width * 2
    rows = shape.rows / math.prod(mesh.values())
    lengths = shape.prompt + (shape.response + 1) / 2
    return shape.response * (parameters + rows * lengths * token)
