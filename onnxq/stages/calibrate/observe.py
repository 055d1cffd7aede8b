"""The unit of work: some batches in, the statistics of the tapped tensors out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.data.batch import Batch
from onnxq.errors import CalibrationError, ModelError
from onnxq.numerics.histogram import empty, merge, observe
from onnxq.runtime.taps import Taps
from onnxq.types.statistics import TensorStatistics

Seen = dict[str, TensorStatistics]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Consecutive batches that are observed together; the same ones whatever engine runs them.

    Attributes:
        batches: the batches. rows: for each, how many samples may run at once.
    """

    batches: tuple[Batch, ...]
    rows: tuple[int, ...]

    @property
    def samples(self) -> int:
        """How many samples the batches hold."""
        return sum(batch.samples for batch in self.batches)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How tensors are observed.

    Attributes:
        channel_axes: the axis to keep per-channel statistics for, by tensor.
        subsample: look at every n-th value of a sample only; 1 for all.
    """

    channel_axes: Mapping[str, int]
    subsample: int = 1


class Stopped(Exception):  # noqa: N818 - no error, but the answer to a request
    """The work was given up because somebody asked for it."""


def observe_work(taps: Taps, work: Work, options: Options, stop: Callable[[], bool] = lambda: False) -> Seen:
    """Run the model over the batches of `work` and return what its tapped tensors held, merged in order.

    Raises:
        CalibrationError: the model cannot run on a batch; says which.
        Stopped: `stop` returned True.
    """
    seen = {name: empty() for name in taps.tensors}
    for batch, rows in zip(work.batches, work.rows, strict=True):
        for part in slices(batch, rows):
            if stop():
                raise Stopped
            try:
                arrays = taps.run(part.feeds)
            except ModelError as error:
                raise CalibrationError(f"{batch.where}: {error}") from error
            while arrays:  # each array is given up as soon as it was looked at
                name, array = arrays.popitem()
                seen[name] = merge(seen[name], _observe(array, part.samples, options.channel_axes.get(name), options))
    return seen


def slices(batch: Batch, rows: int) -> Iterator[Batch]:
    """Yield `batch` in parts of at most `rows` samples."""
    if rows >= batch.samples:
        yield batch
        return
    for start in range(0, batch.samples, rows):
        yield batch.rows(start, start + rows)


def _observe(array: npt.NDArray[Any], samples: int, channel_axis: int | None, options: Options) -> TensorStatistics:
    # Axis 0 counts samples where it is as long as the batch.
    batch_axis = 0 if array.ndim and array.shape[0] == samples else None
    if options.subsample == 1 or channel_axis is not None or not array.size:
        return observe(array, batch_axis=batch_axis, channel_axis=channel_axis)
    flat = array.reshape(samples if batch_axis == 0 else 1, -1)
    thinned = observe(np.ascontiguousarray(flat[:, :: options.subsample]), batch_axis=0)
    shape = tuple((1, 1) if axis == batch_axis else (extent, extent) for axis, extent in enumerate(array.shape))
    return replace(thinned, shapes=shape)
