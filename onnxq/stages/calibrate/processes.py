"""Processes of this machine as an executor that outlives the death of any of them.

`ProcessPoolExecutor` has one pipe for the results of all its processes: one that is killed (out of memory, say) in the
middle of a large result leaves the pipe unreadable, and the pool waits forever. Here each process has its own.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from onnxq.errors import CalibrationError, MissingDependencyError, RecipeError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerLostError(ConnectionError):
    """A process ended in the middle of a task."""


class Processes(Executor):
    """Runs tasks in `count` processes, started when there is work, and again when one was lost.

    A task whose process is lost fails with `WorkerLostError`; the others go on.
    """

    def __init__(self, count: int) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._workers: dict[int, _Worker] = {}
        self._threads = [
            threading.Thread(target=self._tend, args=(index,), name=f"process {index}", daemon=True)
            for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pids(self) -> list[int]:
        """Identifiers of the processes that are there."""
        return [worker.process.pid or 0 for worker in self._workers.values()]

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a process; all of it must be picklable."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        self._tasks.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end the processes when those that were taken are done."""
        self._closed = True
        while cancel_futures:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the tasks, or, after an error, give them up."""
        if kind is not None:
            for worker in list(self._workers.values()):
                worker.process.terminate()
        self.shutdown(cancel_futures=kind is not None)

    def _tend(self, index: int) -> None:
        """Give tasks to one process, one after the other."""
        while (task := self._tasks.get()) is not None:
            future, call = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if index not in self._workers or not self._workers[index].begin(call):
                    self._workers[index] = _Worker()  # the first, or one for a process that was lost while idle
                    self._workers[index].begin(call)
                well, value = self._workers[index].answer()
            except (EOFError, ConnectionError):
                lost = self._workers.pop(index).process
                lost.join()
                future.set_exception(WorkerLostError(f"process {lost.pid} ended with exit code {lost.exitcode}"))
            except BaseException as error:  # a task that cannot be pickled
                future.set_exception(error)
            else:
                future.set_result(value) if well else future.set_exception(value)
        if index in self._workers:
            self._workers.pop(index).end()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        # Spawned: a fork would copy the runtime's threads in the middle of their work.
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,), daemon=True)
        self.process.start()
        there.close()  # so that the process's end is the only one, and its death is seen

    def begin(self, call: Any) -> bool:
        """Hand over a task; False if the process is gone."""
        try:
            self._pipe.send(call)
            self._pipe.recv()
        except (EOFError, ConnectionError):
            return False
        return True

    def answer(self) -> tuple[bool, Any]:
        """Wait for (whether it went well, result or exception)."""
        answer: tuple[bool, Any] = self._pipe.recv()
        return answer

    def end(self) -> None:
        self._pipe.close()
        self.process.join()


def _serve(pipe: Connection) -> None:
    """Run tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
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
    """Open what shares the work of a calibration, and close it at the end; None where neither is asked for.

    Args:
        processes: number of processes on this machine. dask: address of a Dask scheduler, `tcp://host:port`.

    Raises:
        RecipeError: both, or no processes. MissingDependencyError: Dask is not installed.
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
