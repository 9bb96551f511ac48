"""What the machine says of a run: when its phases ended, and the memory it took.

Knows no model and no algorithm.
"""

from collections.abc import Mapping
from concurrent import futures
import resource
import sys
import time
from typing import Any, Self

import jax


class Watch:
    """Tells how long the phases of a step took, while later ones are dispatched.

    A device works on programs in their order. A thread waits for what each phase
    computes and looks at the clock: the loop itself need not stop. A step that was
    dispatched before the last one had ended begins when that ends. A context manager.
    """

    def __enter__(self) -> Self:
        self._thread = futures.ThreadPoolExecutor(1)
        self._ended = 0.0  # the last step; the thread's own
        return self

    def __exit__(self, *unused: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def step(
        self, begun: float, phases: Mapping[str, Any], last: Any
    ) -> futures.Future[dict[str, float]]:
        """Seconds of a step, 'time/step', and of its phases, once it has ended.

        Args:
          begun: When it was begun, by `time.perf_counter`.
          phases: By name, in their order, arrays that are there when each ends. They
            may not be donated.
          last: Arrays that are there when the step ends.
        """
        return self._thread.submit(self._wait, begun, phases, last)

    def _wait(self, begun, phases, last):
        start = before = max(begun, self._ended)
        found = {}
        for name, arrays in phases.items():
            jax.block_until_ready(arrays)
            now = time.perf_counter()
            found[f'time/{name}'], before = now - before, now
        jax.block_until_ready(last)
        self._ended = time.perf_counter()
        return found | {'time/step': self._ended - start}


def peak_memory() -> dict[str, int]:
    """The most bytes that were held: of a device where it counts them.

    Returns:
      {'peak_device_bytes': of the device with the most}; else, as on CPUs,
      {'peak_process_bytes': the largest resident set since this process began}.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [
        found['peak_bytes_in_use'] for found in stats if 'peak_bytes_in_use' in found
    ]
    if peaks:
        return {'peak_device_bytes': max(peaks)}
    unit = 1 if sys.platform == 'darwin' else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {'peak_process_bytes': resident * unit}
