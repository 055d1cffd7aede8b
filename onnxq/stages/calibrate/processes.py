"""Processes of this machine as an executor that outlives the death of any of them.

`ProcessPoolExecutor` has one pipe for the results of all its processes, whose writing end it keeps open: one that is
killed (out of memory, say) in the middle of a large result leaves the pool waiting forever. Here each thread of a pool
hands its tasks to a process with a pipe of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from onnxq.errors import CalibrationError, MissingDependencyError, RecipeError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerLostError(ConnectionError):
    """A process ended in the middle of a task."""


class Processes(ThreadPoolExecutor):
    """Runs tasks in processes, started when there is work, and again when one was lost.

    A task whose process is lost fails with `WorkerLostError`; the others go on.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, thread_name_prefix="process")
        self._processes: dict[int, _Process] = {}  # by the identifier of the thread that feeds it

    @property
    def pids(self) -> list[int]:
        """Identifiers of the processes that are there."""
        return [each.process.pid or 0 for each in self._processes.values()]

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a process; all of it must be picklable."""
        return super().submit(self._delegate, (fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end the processes when those that were taken are done."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        while wait and self._processes:
            self._processes.popitem()[1].end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the tasks, or, after an error, give them up."""
        if kind is not None:
            self.shutdown(wait=False, cancel_futures=True)
            for each in list(self._processes.values()):
                each.process.terminate()
        self.shutdown()

    def _delegate(self, task: tuple[Any, ...]) -> Any:
        """Run a task in the process of this thread."""
        thread = threading.get_ident()
        try:
            if thread not in self._processes or not self._processes[thread].begin(task):
                self._processes[thread] = _Process()  # the first, or one for a process that was lost while idle
                self._processes[thread].begin(task)
            succeeded, value = self._processes[thread].answer()
        except (EOFError, ConnectionError):
            lost = self._processes.pop(thread).process
            lost.join()
            raise WorkerLostError(f"process {lost.pid} ended with exit code {lost.exitcode}") from None
        if not succeeded:
            raise value
        return value


class _Process:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        # Spawned: a fork would copy the runtime's threads in the middle of their work.
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,), daemon=True)
        self.process.start()
        there.close()  # so that the process's end is the only one, and its death is seen

    def begin(self, task: tuple[Any, ...]) -> bool:
        """Hand over a task; return False if the process is gone."""
        try:
            self._pipe.send(task)
            self._pipe.recv()
        except (EOFError, ConnectionError):
            return False
        return True

    def answer(self) -> tuple[bool, Any]:
        """Wait for (whether it succeeded, result or exception)."""
        answer: tuple[bool, Any] = self._pipe.recv()
        return answer

    def end(self) -> None:
        self._pipe.close()
        self.process.join()


def _serve(pipe: Connection) -> None:
    """Run tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            task = pipe.recv_bytes()
            pipe.send(None)
            try:
                function, arguments, keywords = pickle.loads(task)
                answer = True, function(*arguments, **keywords)
            except Exception as error:
                answer = False, error
            pipe.send(answer)


_PATIENCE = "10s"  # for a scheduler to answer


@contextmanager
def engine(*, processes: int | None = None, dask: str | None = None) -> Iterator[Executor | None]:
    """Open the executor that shares the work of a calibration, and close it at the end; None where neither is given.

    Args:
        processes: number of processes on this machine.
        dask: address of a Dask scheduler, `tcp://host:port`.

    Raises:
        RecipeError: both are given, or no processes.
        MissingDependencyError: Dask is not installed.
        CalibrationError: the scheduler does not answer.
    """
    if processes is not None and dask is not None:
        raise RecipeError("the work is shared among processes or among a cluster's workers, not both")
    if processes is not None:
        if processes < 1:
            raise RecipeError(f"processes must be at least 1, not {processes}")
        with Processes(processes) as pool:
            yield pool
    elif dask is not None:
        try:
            distributed = importlib.import_module("distributed")
        except ImportError:
            raise MissingDependencyError("Dask is not installed: pip install 'onnxq[dask]'") from None
        try:
            client = distributed.Client(dask, timeout=_PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise CalibrationError(f"no Dask scheduler answers at '{dask}': {error}; check the address") from error
        with client:
            yield client.get_executor()
    else:
        yield None
