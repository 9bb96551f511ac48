"""A function of many items in processes of their own, its results in order.

A process gets the function as a pickle and imports what that names, nothing else. One
of `multiprocessing` would import the program that starts it too, which is all of JAX,
and would stay where a run is killed: these end when their connection does.
"""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
import contextlib
import itertools
import multiprocessing
from multiprocessing import connection
import os
import pickle
import queue
import subprocess
import sys
import traceback
from typing import Any, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

# Items in flight for each process: one that it works on, and one that waits.
_IN_FLIGHT = 2


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Generator[Result]:
    """The function's result for each item, in order; no item is read far ahead.

    The processes end with the iterator: at its end, when it is closed, or by an error.

    Args:
        function: of a module, or a partial of one; pickled, as are items and results.
        items: read in this process, as results are asked for.
        count: of processes, or fewer where there are fewer items; with 0, and for a
            single item, a thread of this process does it.

    Raises:
        ChildProcessError: a process was ended from outside.
        ValueError: `count` is negative.
        Exception: what the function raised; its notes tell where.
    """
    if count < 0:
        raise ValueError(f'workers={count}; must not be negative.')
    items = iter(items)
    first = list(itertools.islice(items, max(count, 2)))
    items = itertools.chain(first, items)
    if count == 0 or len(first) < 2:
        # Tokenizers let go of the interpreter: meanwhile results are put to use.
        with futures.ThreadPoolExecutor(1) as thread:
            yield from _in_order(thread, function, items, _IN_FLIGHT)
        return
    pickled = pickle.dumps(function)
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def call(item: Item) -> Result:
        process = idle.get()
        try:
            return process.call(item)
        finally:
            idle.put(process)

    # Left from the last line up: threads stop waiting once the processes are gone.
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_Process(pickled))
            for _ in range(min(count, len(first)))
        ]
        threads = stack.enter_context(futures.ThreadPoolExecutor(len(processes)))
        for process in processes:
            idle.put(process)
            stack.callback(process.kill)
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        yield from _in_order(threads, call, items, _IN_FLIGHT * len(processes))


def _in_order(
    threads: futures.Executor,
    call: Callable[[Item], Result],
    items: Iterable[Item],
    most: int,
) -> Iterator[Result]:
    """The result for each item, in order, so many of them in flight at most."""
    waiting: collections.deque[futures.Future[Result]] = collections.deque()
    for item in items:
        waiting.append(threads.submit(call, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Process:
    """A process that calls a function; a context manager."""

    def __init__(self, function: bytes):
        self._unsent: bytes | None = function
        self._connection, theirs = multiprocessing.Pipe()
        # The import path is this process's, whatever it is; the working directory does
        # not come before it. Where each process has texts of its own, threads of the
        # tokenizers library would only be in each other's way.
        environment = os.environ | {
            'PYTHONPATH': os.pathsep.join(sys.path),
            'TOKENIZERS_PARALLELISM': 'false',
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, '-P', '-m', __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                # A Ctrl-C is for the process that waits for results.
                start_new_session=True,
            )

    def __enter__(self) -> '_Process':
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._process.wait()
        self._connection.close()

    def kill(self) -> None:
        """Ends the process at once; nothing is lost, as it keeps nothing."""
        self._process.kill()

    def call(self, item: Any) -> Any:
        """The function's result for an item; what it raises is raised."""
        try:
            if self._unsent is not None:
                self._connection.send_bytes(self._unsent)
                self._unsent = None
            self._connection.send(item)
            result, error = self._connection.recv()
        except (EOFError, ConnectionError) as broken:
            raise ChildProcessError(
                f'A worker process ended (status {self._process.wait()}) with rows to '
                'do. Was memory short? Lower config.data.workers; 0 works without them.'
            ) from broken
        if error is not None:
            raise error
        return result


def _serve(parent: connection.Connection) -> None:
    """Receives a function and items, and sends each result, until there are no more."""
    with contextlib.suppress(EOFError, ConnectionError):
        function = parent.recv()
        while True:
            parent.send(_outcome(function, parent.recv()))


def _outcome(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
    try:
        return function(item), None
    except Exception as error:
        error.add_note(f'In a worker process:\n{traceback.format_exc()}')
        return None, error


if __name__ == '__main__':
    _serve(connection.Connection(int(sys.argv[1])))
