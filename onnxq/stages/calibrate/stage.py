"""The stage: waves over the data, work in order, checkpoints."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.data.batch import Batch
from onnxq.data.source import Source
from onnxq.errors import CalibrationError, RecipeError
from onnxq.graph.fingerprint import fingerprint
from onnxq.numerics.histogram import Accumulator
from onnxq.progress import Progress, Silent
from onnxq.runtime.memory import free_memory
from onnxq.runtime.taps import Taps, in_graph_order
from onnxq.stages.calibrate.checkpoint import CalibrationCheckpoint, job_key
from onnxq.stages.calibrate.memory_plan import BatchTooLarge, MemoryPlan, plan_memory
from onnxq.stages.calibrate.observe import ObserveOptions, Portion, StatisticsByName, Work
from onnxq.stages.calibrate.workers import Workers, observe_in_threads
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

# A piece of work is one batch where there are few, so that all workers are busy, and more where there are many, so that
# results are merged, sent and saved less often; but never much data.
_PIECES = 16
_PIECE_BATCHES = 16
_PIECE_BYTES = 4 << 20


def calibrate(
    model: ir.Model,
    tensors: Collection[str],
    source: Source,
    *,
    channel_axes: Mapping[str, int] | None = None,
    products: Collection[str] = (),
    threads: int = 0,
    progress: Progress | None = None,
    memory: int | None = None,
    executor: Executor | None = None,
    checkpoint: Path | None = None,
    subsample: int | None = None,
    histograms: bool = True,
    surveyed: Statistics | None = None,
) -> Statistics:
    """Observe `tensors` while the model runs over `source`.

    Extremes, histograms and counts are the same whatever the batching, the number of threads, the memory and the
    executor, as far as onnxruntime computes the same values for the same sample.

    Args:
        model: the prepared model; left as it is.
        tensors: names of values of the main graph, graph inputs included.
        source: the samples.
        channel_axes: tensors to keep per-channel statistics for, and their channel axis.
        products: those of them whose products of every two channels are kept too, channels x channels numbers each.
        threads: processor cores to use, 0 for all; with an executor, cores of each worker (0 for one).
        progress: receives samples done, and notes about waves.
        memory: bytes that tapped tensors may take; None for a third of the free memory.
        executor: with the interface of `concurrent.futures`, runs the work; None for threads of this process.
        checkpoint: file to keep the state in while it runs; an interrupted calibration resumes from it.
        subsample: observe only every n-th value of a sample; extremes are then those of the observed values.
        histograms: False where extremes are enough, which takes much less time.
        surveyed: what `survey` returned for the same tensors and samples, if it was called; memory is planned by it.

    Raises:
        CalibrationError: data that does not fit the model, or a tensor that the model lacks.
        RecipeError: an option out of range.
    """
    for option, value, least in (("threads", threads, 0), ("memory", memory, 1), ("subsample", subsample, 1)):
        if value is not None and value < least:
            raise RecipeError(f"{option} must be at least {least}, not {value}")
    job = _Calibration(
        model=model,
        fingerprint=fingerprint(model) if surveyed is None else surveyed.fingerprint,
        source=source,
        options=ObserveOptions(
            channel_axes=dict(channel_axes or {}),
            products=frozenset(products),
            subsample=subsample or 1,
            histograms=histograms,
        ),
        progress=progress or Silent(),
        executor=executor,
        checkpoint=checkpoint,
    )
    tensors = in_graph_order(model, tensors)
    batches = source.batches()
    first = next(batches)
    budget = memory if memory is not None else free_memory() // 3
    cores = (threads or 1) if executor is not None else (threads or _cores())
    plan = plan_memory(model, tensors, first, memory=budget, cores=cores, surveyed=surveyed)
    stream: Iterator[Batch] = itertools.chain([first], batches)  # some sources can be read only once
    while True:
        try:
            return job.run(plan, stream)
        except BatchTooLarge as larger:
            stream = source.batches()
            job.progress.note(f"{larger.batch.where} is larger than those before it; calibration begins afresh for it")
            plan = plan_memory(model, tensors, larger.batch, memory=budget, cores=cores)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Calibration:
    model: ir.Model
    fingerprint: str
    source: Source
    options: ObserveOptions
    progress: Progress
    executor: Executor | None
    checkpoint: Path | None

    def run(self, plan: MemoryPlan, stream: Iterator[Batch]) -> Statistics:
        """Run all waves, the first one over `stream`."""
        count = len(plan.waves)
        if count > 1:
            self.progress.note(f"the tapped tensors do not fit into memory at once: {count} waves over the data")
        statistics: StatisticsByName = {}
        samples = 0
        checkpoints = [self._checkpoint(wave, number) for number, wave in enumerate(plan.waves, start=1)]
        try:
            for number, (wave, checkpoint) in enumerate(zip(plan.waves, checkpoints, strict=True), start=1):
                description = "calibrate" if count == 1 else f"calibrate, wave {number} of {count}"
                batches = stream if number == 1 else self.source.batches()
                observed, samples = self._wave(wave, plan, batches, description, checkpoint)
                statistics |= observed
        except BatchTooLarge:
            _remove(checkpoints)
            raise
        _remove(checkpoints)
        return Statistics(
            tensors=statistics, fingerprint=self.fingerprint, samples=samples, synthetic=self.source.synthetic
        )

    def _wave(
        self,
        tensors: tuple[str, ...],
        plan: MemoryPlan,
        batches: Iterator[Batch],
        description: str,
        checkpoint: CalibrationCheckpoint | None,
    ) -> tuple[StatisticsByName, int]:
        accumulators = {name: Accumulator() for name in tensors}
        done = 0
        if checkpoint is not None:
            resumed = checkpoint.load()
            if checkpoint.note:
                self.progress.note(checkpoint.note)
            if resumed is not None:
                for name, accumulator in accumulators.items():
                    accumulator.add(resumed.tensors[name])
                done = resumed.samples
                self.progress.note(f"{done} samples were observed before; going on from there")
        self.progress.start(self.source.samples, description)
        self.progress.advance(done)
        try:
            for work, observed in self._observe(tensors, plan, self._works(batches, plan, done)):
                for name, accumulator in accumulators.items():
                    accumulator.add(observed[name])
                done += work.samples
                self.progress.advance(work.samples)
                if checkpoint is not None:
                    checkpoint.save(accumulators, done)
        except BaseException:
            if checkpoint is not None and done:
                checkpoint.save(accumulators, done, now=True)
            raise
        finally:
            self.progress.finish()
        if checkpoint is not None:
            checkpoint.save(accumulators, done, now=True)
        return {name: accumulator.result() for name, accumulator in accumulators.items()}, done

    def _observe(
        self, tensors: tuple[str, ...], plan: MemoryPlan, works: Iterator[Work]
    ) -> Iterator[tuple[Work, StatisticsByName]]:
        if self.executor is None:
            taps = Taps(self.model, tensors, threads=plan.threads)
            return observe_in_threads(taps, works, self.options, workers=plan.workers, memory=plan.budget)
        workers = Workers(
            self.executor,
            self.model,
            self.fingerprint,
            tensors,
            threads=plan.threads,
            options=self.options,
            note=self.progress.note,
        )
        return workers.observe(works)

    def _works(self, batches: Iterator[Batch], plan: MemoryPlan, skip: int) -> Iterator[Work]:
        """Yield the batches in pieces of work, the first `skip` samples left out."""
        free, whole = self.source.chooses_size, self.source.signature.fixed_batch is not None
        # The same for the same data, whoever does the work.
        enough = max(1, (self.source.samples or 0) // _PIECES)
        pending: list[tuple[Batch, Portion]] = []
        for batch in batches:
            if skip > 0:
                skip -= batch.samples
                continue
            if skip < 0:
                raise CalibrationError("the data is not what it was before the interruption; delete the checkpoint")
            pending.append((batch, plan.portion(batch, free=free, whole=whole)))
            full = len(pending) == _PIECE_BATCHES or _bytes(pending) >= _PIECE_BYTES
            if full or sum(each.samples for each, _ in pending) >= enough:
                yield _work(pending)
                pending = []
        if pending:
            yield _work(pending)

    def _checkpoint(self, wave: tuple[str, ...], number: int) -> CalibrationCheckpoint | None:
        if self.checkpoint is None:
            return None
        path = self.checkpoint if number == 1 else self.checkpoint.with_name(f"{self.checkpoint.name}.{number}")
        return CalibrationCheckpoint(path, job_key(self.fingerprint, self.source, wave, self.options))


def _remove(checkpoints: list[CalibrationCheckpoint | None]) -> None:
    for checkpoint in checkpoints:
        if checkpoint is not None:
            checkpoint.remove()


def _bytes(pending: list[tuple[Batch, Portion]]) -> int:
    return sum(array.nbytes for batch, _ in pending for array in batch.feeds.values())


def _work(pending: list[tuple[Batch, Portion]]) -> Work:
    return Work(batches=tuple(batch for batch, _ in pending), portions=tuple(portion for _, portion in pending))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
