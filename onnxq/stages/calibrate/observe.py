"""The unit of work: some batches in, the statistics of the tapped tensors out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from onnxq.data.batch import Batch
from onnxq.errors import CalibrationError, ModelError
from onnxq.numerics.grid import kernel
from onnxq.numerics.histogram import Accumulator, Shapes, merge_shapes, sample_shape
from onnxq.runtime.taps import Taps
from onnxq.types.statistics import TensorStatistics

StatisticsByName = dict[str, TensorStatistics]

_counting = threading.Lock()


def _turn() -> contextlib.AbstractContextManager[object]:
    """Return the lock that a thread takes while it counts.

    Threads that count at once by numpy hand the interpreter's lock to and fro thousands of times a second, which takes
    longer than counting in turns. The model, and the compiled kernel, run without that lock.
    """
    return _counting if kernel() is None else contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """How much of a batch runs at once.

    Attributes:
        rows: samples.
        sample_bytes: what the tapped tensors of one sample are expected to take.
    """

    rows: int
    sample_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Consecutive batches that are observed together; the same ones whoever runs them.

    Attributes:
        batches: the batches.
        portions: for each, in which portions it runs.
    """

    batches: tuple[Batch, ...]
    portions: tuple[Portion, ...]

    @property
    def samples(self) -> int:
        """Return how many samples the batches hold."""
        return sum(batch.samples for batch in self.batches)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObserveOptions:
    """How tensors are observed.

    Attributes:
        channel_axes: the axis to keep per-channel statistics for, by tensor.
        products: those of these tensors of which the products of every two channels are kept, too.
        subsample: look at every n-th value of a sample only; 1 for all.
        histograms: whether values are counted in bins, or extremes are enough.
    """

    channel_axes: Mapping[str, int]
    products: frozenset[str] = frozenset()
    subsample: int = 1
    histograms: bool = True


class Stopped(Exception):  # noqa: N818 - not an error: it was requested
    """The work was given up on request."""


def observe_work(
    taps: Taps,
    work: Work,
    options: ObserveOptions,
    *,
    budget: MemoryBudget | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StatisticsByName:
    """Run the model over the batches of `work` and return the statistics of its tapped tensors, merged in order.

    Args:
        taps: the session.
        work: what to run.
        options: how to observe it.
        budget: what the tapped tensors of all runs may take together; None if nothing else runs.
        stop: called before each run; returns whether to give up.

    Raises:
        CalibrationError: the model cannot run on a batch; says which.
        Stopped: `stop` returned True.
    """
    observers = {name: TensorObserver(name, options) for name in taps.tensors}
    budget = budget or MemoryBudget(0)
    for batch, portion in zip(work.batches, work.portions, strict=True):
        for part in slices(batch, portion.rows):
            if stop():
                raise Stopped
            _observe_run(taps, part, observers, budget, portion.sample_bytes * part.samples)
    return {name: observer.result() for name, observer in observers.items()}


def _observe_run(
    taps: Taps, batch: Batch, observers: dict[str, TensorObserver], budget: MemoryBudget, taken: int
) -> None:
    budget.take(taken)
    try:
        arrays = taps.run(batch.feeds)
        with _turn():
            while arrays:  # each array is freed as soon as it was observed
                name, each = arrays.popitem()
                while each:
                    array = each.pop()
                    observers[name].update(array, batch.samples)
                    done = min(array.nbytes, taken)
                    del array
                    taken -= done
                    budget.give_back(done)
    except ModelError as error:
        raise CalibrationError(f"{batch.where}: {error}") from error
    finally:
        budget.give_back(taken)


def slices(batch: Batch, rows: int) -> Iterator[Batch]:
    """Yield `batch` in parts of at most `rows` samples."""
    if rows >= batch.samples:
        yield batch
        return
    for start in range(0, batch.samples, rows):
        yield batch.rows(start, start + rows)


class TensorObserver:
    """Collects the statistics of one tensor."""

    def __init__(self, name: str, options: ObserveOptions) -> None:
        channel_axis = options.channel_axes.get(name)
        self._accumulator = Accumulator(
            channel_axis=channel_axis, products=name in options.products, counted=options.histograms
        )
        # Every n-th value does not show its channel.
        self._subsample = 1 if channel_axis is not None else options.subsample
        self._shapes: list[Shapes | None] = []  # of the whole arrays, where a part of the values is observed

    def update(self, array: npt.NDArray[Any], samples: int) -> None:
        """Add an array of a run of so many samples; axis 0 counts them where it is that long."""
        batch_axis = 0 if array.ndim and array.shape[0] == samples else None
        if self._subsample == 1 or not array.size:
            self._accumulator.update(array, batch_axis=batch_axis)
            return
        shape = sample_shape(array.shape, batch_axis)
        self._shapes = [shape if not self._shapes else merge_shapes(self._shapes[0], shape)]
        flat = array.reshape(samples if batch_axis == 0 else 1, -1)
        self._accumulator.update(flat[:, :: self._subsample], batch_axis=0)

    def result(self) -> TensorStatistics:
        """Return the statistics."""
        statistics = self._accumulator.result()
        return replace(statistics, shapes=self._shapes[0]) if self._shapes else statistics


class MemoryBudget:
    """Bytes shared by threads. A thread that wants more than is free waits, unless nobody else has any."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    def take(self, wanted: int) -> None:
        """Take `wanted` bytes."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + wanted <= self._size)
            self._used += wanted

    def give_back(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()
