"""Shards: calibration as a map-reduce over worker processes, on this machine or others.

Each task carries its samples, so workers need nothing but onnxq; the model travels once to each worker that lacks it.
A task's result is counted once, when it is collected. A task whose worker was lost runs again in this process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxq.errors import CalibrationError, OnnxqError
from onnxq.runtime.taps import Taps
from onnxq.stages.calibrate.engines import in_order
from onnxq.stages.calibrate.observe import Options, Seen, Work, observe_work

if TYPE_CHECKING:
    import onnx_ir as ir

# Tasks under way: enough for some tens of workers, few enough that their samples fit into memory.
WINDOW = 32
MAX_MESSAGE_BYTES = (1 << 31) - (1 << 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a worker gets.

    Attributes:
        key: stands for model and tensors. model: serialized; None in the hope that the worker has it.
        tensors: what is tapped. threads: intra-op threads. options: how tensors are observed. work: the samples.
    """

    key: str
    model: bytes | None
    tensors: tuple[str, ...]
    threads: int
    options: Options
    work: Work


class _Kept:
    """The session a worker process used last."""

    lock = threading.Lock()
    key = ""
    taps: Taps | None = None


def run_task(task: Task) -> Seen | None:
    """Run in a worker: return what was seen, or None if the model must be sent along."""
    with _Kept.lock:
        if _Kept.key != task.key:
            if task.model is None:
                return None
            _Kept.taps = None  # the old session goes before the new one comes
            _Kept.taps = Taps(parse(task.model), task.tensors, threads=task.threads)
            _Kept.key = task.key
        taps = _Kept.taps
    return None if taps is None else observe_work(taps, task.work, task.options)


class Shards:
    """An `Engine` on any executor after `concurrent.futures`."""

    def __init__(
        self,
        executor: Executor,
        model: ir.Model,
        fingerprint: str,
        tensors: tuple[str, ...],
        *,
        threads: int,
        options: Options,
        note: Callable[[str], None],
    ) -> None:
        self._executor = executor
        self._model = model
        self._message = serialize(model)
        self._key = "\0".join((fingerprint, str(threads), *tensors))
        self._tensors, self._threads, self._options = tensors, threads, options
        self._note = note
        self._here: Taps | None = None

    def observe(self, works: Iterable[Work]) -> Iterator[tuple[Work, Seen]]:
        """See `Engine`."""
        return in_order(self._submit, works, WINDOW)

    def _submit(self, work: Work) -> Future[Seen]:
        task = Task(
            key=self._key,
            model=None,
            tensors=self._tensors,
            threads=self._threads,
            options=self._options,
            work=replace(work, batches=tuple(replace(batch, labels=None) for batch in work.batches)),
        )
        return _Retried(self, task)

    def start(self, task: Task) -> Future[Any]:
        """Hand a task to the executor; what goes wrong with that is the future's result."""
        try:
            return self._executor.submit(run_task, task)
        except Exception as error:  # a broken or closed executor
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def with_model(self, task: Task) -> Task:
        """Return the task with the model."""
        return replace(task, model=self._message)

    def run_here(self, task: Task, error: BaseException) -> Seen:
        """Run a task whose worker was lost."""
        if self._here is None:
            self._note(f"a worker was lost ({type(error).__name__}: {error}); its samples run in this process")
            self._here = Taps(self._model, self._tensors, threads=self._threads)
        return observe_work(self._here, task.work, task.options)


class _Retried(Future[Seen]):
    """A task's result: sent again with the model where that was missing, run here where the worker was lost."""

    def __init__(self, shards: Shards, task: Task) -> None:
        super().__init__()
        self._shards = shards
        self._task = task
        self._watch(shards.start(task), last=False)

    def result(self, timeout: float | None = None) -> Seen:
        """Wait for the result."""
        try:
            return super().result(timeout)
        except OnnxqError:
            raise
        except (Exception, CancelledError) as error:
            return self._shards.run_here(self._task, error)

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
            seen = inner.result()
        except BaseException as error:
            self.set_exception(error)
            return
        if seen is None and not last:
            self._watch(self._shards.start(self._shards.with_model(self._task)), last=True)
        elif seen is None:
            self.set_exception(CalibrationError("a worker lost the model it was sent; calibrate again"))
        else:
            self.set_result(seen)


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
