"""Several processes as one program: how they meet, agree, and end together.

On TPU pods, under Slurm or Open MPI, and in Kubernetes JAX finds the processes.
Elsewhere each of them is told, by options or by variables of the environment:

    --coordinator=HOST:PORT --processes=N --process=I
    BEAVER_JAX_COORDINATOR  BEAVER_JAX_PROCESSES  BEAVER_JAX_PROCESS
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import logging
import os
import pickle
import re
import sys
import traceback
from typing import Any, NoReturn, TypeVar

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

log = logging.getLogger(__name__)
Result = TypeVar('Result')
OPTIONS = ('coordinator', 'processes', 'process')
# What the shell says of a program that SIGTERM ended, and SIGINT, which is Ctrl-C.
# Several processes that stop together all end as by SIGTERM.
STOPPED, INTERRUPTED = 143, 130
_SAID = 512  # bytes of what a process says to the others, at most
# How collectives on CPUs complain of a process that is gone.
_GONE = re.compile('gloo|closed by peer|connection re(set|fused)|heartbeat', re.I)


class DistributedError(ValueError):
    """Options of several processes that do not fit together."""


@dataclasses.dataclass(frozen=True)
class Place:
    """This process among the processes of a program.

    Attributes:
      coordinator: HOST:PORT at which process 0 can be reached by all.
      processes: How many there are.
      process: Which of them this is, from 0.
    """

    coordinator: str
    processes: int
    process: int

    def __post_init__(self):
        """Refuses values out of range."""
        if self.processes < 1:
            raise DistributedError(f'--processes={self.processes}; must be at least 1.')
        if not 0 <= self.process < self.processes:
            raise DistributedError(
                f'--process={self.process} is not among --processes={self.processes}; '
                f'they count from 0 to {self.processes - 1}.'
            )
        host, _, port = self.coordinator.rpartition(':')
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise DistributedError(
                f'--coordinator={self.coordinator!r} is not HOST:PORT; name the host '
                'of process 0 and a free port on it, such as 10.0.0.1:8476.'
            )


def options(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ
) -> tuple[Place | None, list[str]]:
    """Takes this process's place out of a command line.

    Args:
      argv: Options of the command, ours among them.
      environ: Where what `argv` does not say may stand.

    Returns:
      (place, or None where JAX is to look for the processes itself; what is left).

    Raises:
      SystemExit: With one line on stderr (code 2).
    """
    try:
        given, rest = _given(argv)
        for name in OPTIONS:
            value = environ.get(f'BEAVER_JAX_{name.upper()}')
            if value:
                given.setdefault(name, value)
        return _place(given), rest
    except DistributedError as error:
        print(f'Error: {error}', file=sys.stderr)
        raise SystemExit(2) from None


def _given(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Our options, as --x=1 or --x 1, and the others."""
    found: dict[str, str] = {}
    rest = []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition('=')
        if name not in [f'--{option}' for option in OPTIONS]:
            rest.append(argument)
            continue
        value = value if equals else next(arguments, '')
        if not value:
            raise DistributedError(f'{name} has no value; write {name}=VALUE.')
        found[name.removeprefix('--')] = value
    return found, rest


def _place(given: Mapping[str, str]) -> Place | None:
    if not given:
        return None
    numbers = {}
    for name in ('processes', 'process'):
        if name in given:
            if not given[name].isdecimal():
                raise DistributedError(f'--{name}={given[name]!r} is no whole number.')
            numbers[name] = int(given[name])
    if numbers == {'processes': 1} and len(given) == 1:
        return Place('localhost:1', 1, 0)  # nobody is to be met there
    missing = [f'--{name}' for name in OPTIONS if name not in given]
    if missing:
        said = ' '.join(f'--{name}={value}' for name, value in given.items())
        raise DistributedError(
            f'{said} without {" and ".join(missing)}; give all three to every process, '
            'or none where JAX finds the processes itself (TPU pods, Slurm, Open MPI, '
            'Kubernetes).'
        )
    return Place(given['coordinator'], **numbers)


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[None]:
    """Around a command: its processes meet, and where one fails all end.

    Args:
      place: Of `options`.

    Raises:
      SystemExit: The processes cannot meet.
    """
    _meet(place)
    try:
        yield
    except BaseException as error:
        agreed = isinstance(error, SystemExit) and error.code in (None, 0, STOPPED)
        if jax.process_count() > 1 and not agreed:
            _end(error)
        raise


def _meet(place: Place | None) -> None:
    if place is not None and place.processes == 1:
        return
    cluster = '' if place is not None else _cluster()
    if place is None and not cluster:
        return
    # SIGTERM is heard by `interrupts`: JAX's own listener would swallow it.
    jax.config.update('jax_enable_preemption_service', False)
    try:
        if place is None:
            jax.distributed.initialize()
        else:
            log.info(
                'process %d of %d: meeting the others at %s',
                *(place.process, place.processes, place.coordinator),
            )
            jax.distributed.initialize(
                place.coordinator,
                place.processes,
                place.process,
                cluster_detection_method='deactivate',
            )
    except (ValueError, OSError) as error:
        if cluster != 'tpu':
            raise SystemExit(f'Error: the processes cannot meet: {error}') from error
        # One TPU host outside of Google's cloud, such as a notebook's.
        log.info('no other TPU hosts were found (%s): one process', error)
    except RuntimeError as error:
        where = place.coordinator if place is not None else cluster
        raise SystemExit(
            f'Error: the processes cannot meet at {where}: {error}. Is the port free '
            'on the host of process 0, open to the others, and each --process started '
            'once?'
        ) from error


def _cluster(environ: Mapping[str, str] = os.environ) -> str:
    """What has started several processes, as far as JAX can tell their places."""

    def count(name):
        value = environ.get(name, '')
        return int(value) if value.isdecimal() else 1

    slurm = {'SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID', 'SLURM_LOCALID'}
    if count('SLURM_NTASKS') > 1 and slurm <= environ.keys():
        return 'slurm'
    if count('OMPI_COMM_WORLD_SIZE') > 1:
        return 'ompi'
    hosts = environ.get('TPU_PROCESS_ADDRESSES') or environ.get('TPU_WORKER_HOSTNAMES')
    several = ',' in (hosts or '') or count('MEGASCALE_NUM_SLICES') > 1
    # JAX sets this variable where it sees no TPU, and GKE in pods that have some.
    may_be = several or 'TPU_SKIP_MDS_QUERY' not in environ
    if (
        may_be
        and environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
        and importlib.util.find_spec('libtpu') is not None
    ):
        return 'tpu'
    if (
        {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= environ.keys()
        and not hosts
        and importlib.util.find_spec('kubernetes') is not None
    ):
        return 'kubernetes'
    return ''


def _end(error: BaseException) -> NoReturn:
    """Ends this process without waiting for the others, who would wait for it.

    They notice: at once on CPUs, elsewhere when JAX misses its heartbeat.
    """
    name, code = f'process {jax.process_index()} of {jax.process_count()}', 1
    if isinstance(error, jax.errors.JaxRuntimeError) and _GONE.search(str(error)):
        message = (
            f'Error: {name}: another process has ended or cannot be reached; what it '
            f'printed last says why ({str(error).splitlines()[0][:200]}).'
        )
        if os.environ.get('BEAVER_JAX_TRACEBACK'):
            traceback.print_exception(error)
    elif isinstance(error, KeyboardInterrupt):
        message, code = 'Interrupted.', INTERRUPTED
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
        message, code = '', error.code
    elif isinstance(error, SystemExit):
        message = str(error.code)
    else:
        traceback.print_exception(error)
        message = f'Error: {name} has failed: the others end with it.'
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def by_first(action: Callable[..., Result], *args: Any, **keywords: Any) -> Result:
    """Calls a function in process 0 only, once every process is here.

    Returns:
      In every process what it returned, which must be picklable.

    Raises:
      Exception: In every process what it raised.
    """
    if jax.process_count() == 1:
        return action(*args, **keywords)
    barrier(f'by_first {action.__qualname__}')
    result, error = None, None
    if jax.process_index() == 0:
        try:
            result = action(*args, **keywords)
        except Exception as raised:
            error = raised
    result, error = _told((result, error))
    if error is not None:
        raise error
    return result


def _told(value: Any) -> Any:
    """What process 0 has, in all processes."""
    text = pickle.dumps(value) if jax.process_index() == 0 else b''
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # Of few sizes, each of which is a program.
    buffer = np.zeros(1 << max(10, size.bit_length()), np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    found = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    return pickle.loads(found[:size].tobytes())


def any_process(wish: bool) -> bool:
    """Whether any process says so; all of them call it alike."""
    if jax.process_count() == 1:
        return wish
    return bool(np.any(multihost_utils.process_allgather(np.array([wish]))))


def said(text: str) -> str:
    """What processes say, each thing once; all of them call it alike."""
    if jax.process_count() == 1:
        return text
    mine = np.frombuffer(text.encode()[:_SAID].ljust(_SAID, b'\0'), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, _SAID)
    texts = [row.tobytes().rstrip(b'\0').decode(errors='replace') for row in rows]
    return '; '.join(dict.fromkeys(text for text in texts if text))


class Votes:
    """What any process wishes, made known to all of them at the same step.

    A clock or a signal of one process must not decide what only all can do. Alone, a
    process gets its own wishes back.
    """

    def __init__(self, mesh: Mesh, *, late: bool = False):
        """Prepares ballots.

        Args:
          mesh: Of all devices.
          late: `cast` returns the votes of the call before: reading them does not wait
            for what was dispatched since.
        """
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._late = late
        self._before: jax.Array | None = None
        self._granted: int | None = None
        self._count = jax.jit(
            lambda wishes: wishes.max(axis=0),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        )

    def cast(self, *wishes: bool) -> tuple[bool, ...]:
        """All processes call it alike; for each wish, whether any process has it."""
        if jax.process_count() == 1:
            return wishes
        mine = np.array([wishes], np.int32)
        shape = (self._sharding.mesh.size, len(wishes))
        now = self._count(
            jax.make_array_from_callback(shape, self._sharding, lambda _: mine)
        )
        read, self._before = (self._before, now) if self._late else (now, None)
        granted, self._granted = self._granted, None
        if read is None:
            return (False,) * len(wishes)
        return tuple(bool(x) and i != granted for i, x in enumerate(np.asarray(read)))

    def granted(self, wish: int) -> None:
        """Tells that a wish is fulfilled: a vote under way, cast before, is void in it.

        All processes call it alike.
        """
        self._granted = wish if self._late else None
