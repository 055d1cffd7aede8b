"""How much runs at once, so that calibration stays within its memory whatever the number of samples.

The tapped tensors of a run are alive together. Where they would take more than their share, first fewer samples run at
once, then fewer runs are under way at the same time, and last the tensors are tapped in several waves over the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.data.batch import Batch
from onnxq.runtime.taps import are_repeated, tensor_bytes, tensor_shapes
from onnxq.stages.calibrate.observe import Portion
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

# Of tapped tensors alive at the same time, more does not make calibration faster: it only leaves the caches.
USEFUL_BYTES = 224 << 20
# A run whose size we choose: enough to keep the processor busy.
RUN_BYTES = 64 << 20
# More runs at a time than this do not get faster: counting values holds the interpreter's lock.
MAX_WORKERS = 4


class BatchTooLarge(Exception):  # noqa: N818 - not an error: calibration is planned again
    """A batch whose tensors take more memory than was planned.

    Attributes:
        batch: the batch, one sample of which does not fit.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch.where)
        self.batch = batch


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How a calibration runs.

    Attributes:
        waves: the tensors tapped in each pass over the data.
        workers: runs under way at the same time.
        threads: intra-op threads of each.
        budget: bytes of tapped tensors that are alive at a time; more only while a single sample of one run takes more.
        limit: bytes that they may take if need be.
        sample_bytes: bytes of tapped tensors of one sample, the largest wave's.
        sample_size: elements of its inputs; None if no sample is larger.
    """

    waves: tuple[tuple[str, ...], ...]
    workers: int
    threads: int
    budget: int
    limit: int
    sample_bytes: int
    sample_size: int | None

    def portion(self, batch: Batch, *, free: bool, whole: bool = False) -> Portion:
        """Return in which portions a batch runs.

        Args:
            batch: the batch.
            free: whether its size was chosen by us, so that it may be split as suits.
            whole: whether it must not be split.

        Raises:
            BatchTooLarge: not even one sample may run.
        """
        growth = 1.0 if self.sample_size is None else max(1.0, _size(batch) / batch.samples / self.sample_size)
        # Attention grows with the square of the length.
        expected = max(1, int(self.sample_bytes * growth * growth))
        if expected > self.limit and growth > 1:
            raise BatchTooLarge(batch)
        share = self.budget // self.workers
        rows = min(batch.samples, max(1, (min(share, RUN_BYTES) if free else share) // expected))
        return Portion(rows=batch.samples if whole else rows, sample_bytes=expected)


def plan_memory(
    model: ir.Model,
    tensors: Collection[str],
    batch: Batch,
    *,
    memory: int,
    cores: int,
    surveyed: Statistics | None = None,
) -> MemoryPlan:
    """Return how to calibrate `tensors`, judged by their largest sizes, or else by those they have for `batch`.

    Args:
        model: the model.
        tensors: what is tapped.
        batch: a batch of ordinary size.
        memory: bytes that tapped tensors may take in all.
        cores: processor cores to use.
        surveyed: extents of the tensors for the largest sample of all; None if that is not known.
    """
    if surveyed is not None and are_repeated(model, tensors):
        surveyed = None  # it knows how large they get, but not how often they are computed
    if surveyed is None:
        (shapes,) = tensor_shapes(model, tensors, [batch.feeds])
        sample = {name: size / batch.samples for name, size in tensor_bytes(model, shapes).items()}
    else:
        largest = {name: [[high for _, high in surveyed.tensors[name].shapes or ()]] for name in tensors}
        sample = {name: float(size) for name, size in tensor_bytes(model, largest).items()}
    waves = _waves(sample, memory)
    most = max(sum(sample[name] for name in wave) for wave in waves)
    useful = min(memory, USEFUL_BYTES)
    workers = min(cores, MAX_WORKERS) if most <= useful else 1
    return MemoryPlan(
        waves=waves,
        workers=workers,
        threads=max(1, cores // workers),
        budget=useful,
        limit=memory,
        sample_bytes=int(most),
        sample_size=None if surveyed is not None else max(1, _size(batch) // batch.samples),
    )


def _waves(sample: Mapping[str, float], memory: int) -> tuple[tuple[str, ...], ...]:
    """Return the tensors, in order, in as few runs of neighbours as fit into `memory` each."""
    waves: list[list[str]] = [[]]
    used = 0.0
    for name, size in sample.items():
        if waves[-1] and used + size > memory:
            waves.append([])
            used = 0.0
        waves[-1].append(name)
        used += size
    return tuple(tuple(wave) for wave in waves)


def _size(batch: Batch) -> int:
    return max(1, sum(array.size for array in batch.feeds.values()))
