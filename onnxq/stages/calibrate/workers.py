"""Who does the work: threads of this process, or an executor's workers, on this machine or others.

Results come back in the order of the work, whoever was faster. A task for an executor carries its samples, so that
workers need nothing but onnxq; the model travels once to each worker that lacks it. A task's result is counted once,
when it is collected. A task whose worker was lost runs again in this process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxq.errors import CalibrationError, OnnxqError
from onnxq.runtime.taps import Taps
from onnxq.stages.calibrate.observe import MemoryBudget, ObserveOptions, StatisticsByName, Work, observe_work

if TYPE_CHECKING:
    import onnx_ir as ir

# Tasks under way: enough for some tens of workers, few enough that their samples fit into memory.
WINDOW = 32
MAX_MESSAGE_BYTES = (1 << 31) - (1 << 20)


def observe_in_threads(
    taps: Taps, works: Iterable[Work], options: ObserveOptions, *, workers: int, memory: int
) -> Iterator[tuple[Work, StatisticsByName]]:
    """Observe in threads of this process: while one counts what its run returned, another runs the model.

    Args:
        taps: the session.
        works: what to observe; read in the caller's thread, a little ahead.
        options: how tensors are observed.
        workers: threads.
        memory: bytes that the tapped tensors of all runs may take together.

    Yields:
        Each work with the statistics of its tensors, in order.
    """
    stop, budget = threading.Event(), MemoryBudget(memory)
    with ThreadPoolExecutor(workers, thread_name_prefix="calibrate") as pool:

        def submit(work: Work) -> Future[StatisticsByName]:
            return pool.submit(observe_work, taps, work, options, budget=budget, stop=stop.is_set)

        try:
            yield from _in_order(submit, works, 2 * workers)
        finally:
            stop.set()  # after an error or Ctrl-C, wait for the runs under way only


def _in_order(
    submit: Callable[[Work], Future[StatisticsByName]], works: Iterable[Work], window: int
) -> Iterator[tuple[Work, StatisticsByName]]:
    """Submit work, at most `window` ahead of what was collected, and yield the results in order."""
    pending: deque[tuple[Work, Future[StatisticsByName]]] = deque()
    try:
        for work in works:
            pending.append((work, submit(work)))
            if len(pending) >= window:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        for _, future in pending:
            future.cancel()


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTask:
    """What a worker receives.

    Attributes:
        key: identifies model and tensors.
        model: serialized; None in the hope that the worker has it.
        tensors: what is tapped.
        threads: intra-op threads.
        options: how tensors are observed.
        work: the samples.
    """

    key: str
    model: bytes | None
    tensors: tuple[str, ...]
    threads: int
    options: ObserveOptions
    work: Work


class _LastSession:
    """The session a worker process used last."""

    lock = threading.Lock()
    key = ""
    taps: Taps | None = None


def run_task(task: CalibrationTask) -> StatisticsByName | None:
    """Run in a worker: return the statistics, or None if the model must be sent along."""
    with _LastSession.lock:
        if _LastSession.key != task.key:
            if task.model is None:
                return None
            _LastSession.taps = None  # the old session goes before the new one is made
            _LastSession.taps = Taps(parse(task.model), task.tensors, threads=task.threads)
            _LastSession.key = task.key
        taps = _LastSession.taps
    return None if taps is None else observe_work(taps, task.work, task.options)


class Workers:
    """Observes on any executor with the interface of `concurrent.futures`."""

    def __init__(
        self,
        executor: Executor,
        model: ir.Model,
        fingerprint: str,
        tensors: tuple[str, ...],
        *,
        threads: int,
        options: ObserveOptions,
        note: Callable[[str], None],
    ) -> None:
        self._executor = executor
        self._model = model
        self._message = serialize(model)
        self._key = "\0".join((fingerprint, str(threads), *tensors))
        self._tensors, self._threads, self._options = tensors, threads, options
        self._note = note
        self._here: Taps | None = None

    def observe(self, works: Iterable[Work]) -> Iterator[tuple[Work, StatisticsByName]]:
        """Yield each work with the statistics of its tensors, in order."""
        return _in_order(self._submit, works, WINDOW)

    def _submit(self, work: Work) -> Future[StatisticsByName]:
        task = CalibrationTask(
            key=self._key,
            model=None,
            tensors=self._tensors,
            threads=self._threads,
            options=self._options,
            work=replace(work, batches=tuple(replace(batch, labels=None) for batch in work.batches)),
        )
        return _RetriedFuture(self, task)

    def start(self, task: CalibrationTask) -> Future[Any]:
        """Submit a task to the executor; what goes wrong with that is the future's result."""
        try:
            return self._executor.submit(run_task, task)
        except Exception as error:  # a broken or closed executor
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def start_with_model(self, task: CalibrationTask) -> Future[Any]:
        """Submit a task again, and the model with it."""
        return self.start(replace(task, model=self._message))

    def run_here(self, task: CalibrationTask, error: BaseException) -> StatisticsByName:
        """Run a task whose worker was lost."""
        if self._here is None:
            self._note(f"a worker was lost ({type(error).__name__}: {error}); its samples run in this process")
            self._here = Taps(self._model, self._tensors, threads=self._threads)
        return observe_work(self._here, task.work, task.options)


class _RetriedFuture(Future[StatisticsByName]):
    """A task's result: sent again with the model where that was missing, run here where the worker was lost."""

    def __init__(self, workers: Workers, task: CalibrationTask) -> None:
        super().__init__()
        self._workers = workers
        self._task = task
        self._watch(workers.start(task), last=False)

    def result(self, timeout: float | None = None) -> StatisticsByName:
        """Wait for the result."""
        try:
            return super().result(timeout)
        except OnnxqError:
            raise
        except (Exception, CancelledError) as error:
            return self._workers.run_here(self._task, error)

    def cancel(self) -> bool:
        """Give up."""
        self._inner.cancel()
        return super().cancel()

    def _watch(self, inner: Future[Any], *, last: bool) -> None:
        self._inner = inner
        inner.add_done_callback(lambda done: self._done(done, last=last))

    def _done(self, inner: Future[Any], *, last: bool) -> None:
        if self.cancelled():
            return
        try:
            statistics = inner.result()
        except BaseException as error:
            self.set_exception(error)
            return
        if statistics is None and not last:
            self._watch(self._workers.start_with_model(self._task), last=True)
        elif statistics is None:
            self.set_exception(CalibrationError("a worker lost the model it was sent; calibrate again"))
        else:
            self.set_result(statistics)


def serialize(model: ir.Model) -> bytes:
    """Return the model as one message, external weights included.

    Raises:
        CalibrationError: it is too large for that.
    """
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size >= MAX_MESSAGE_BYTES:
        message = f"the model's weights take {size / 2**30:.1f} GiB, and what is sent to workers holds less than 2"
        raise CalibrationError(f"{message}; calibrate it in one process")
    whole = ir.external_data.load_to_model(model.clone())
    return bytes(ir.to_proto(whole).SerializeToString())


def parse(message: bytes) -> ir.Model:
    """Return the model of a message made by `serialize`."""
    import onnx
    import onnx_ir as ir

    return ir.from_proto(onnx.load_from_string(message))
