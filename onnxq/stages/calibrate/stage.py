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
from onnxq.stages.calibrate.checkpoint import Checkpoint, job_key
from onnxq.stages.calibrate.engines import Engine, Lanes
from onnxq.stages.calibrate.layout import Layout, Outgrown, lay_out
from onnxq.stages.calibrate.observe import Options, Portion, Seen, Work
from onnxq.stages.calibrate.shards import Shards
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

# A piece of work is one batch where there are few, so that all hands are busy, and more where there are many, so that
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
        products: those of them to keep the products of every two channels of, too: channels x channels numbers each.
        threads: processor cores to use, 0 for all; with an executor, cores of each worker (0 for one).
        progress: told of samples done, and of waves.
        memory: bytes that tapped tensors may take; None for a third of the free memory.
        executor: engine after `concurrent.futures` that runs the work; None for threads of this process.
        checkpoint: file to keep the state in while it runs; an interrupted calibration goes on from it.
        subsample: look only at every n-th value of a sample; extremes are then those of the values looked at.
        histograms: False where extremes are enough, which takes much less time.
        surveyed: what `survey` found for the same tensors and samples, if it was asked: memory is planned by it.

    Raises:
        CalibrationError: data that does not fit the model, or a tensor that the model has not.
        RecipeError: an option out of range.
    """
    for option, value, least in (("threads", threads, 0), ("memory", memory, 1), ("subsample", subsample, 1)):
        if value is not None and value < least:
            raise RecipeError(f"{option} must be at least {least}, not {value}")
    job = _Job(
        model=model,
        fingerprint=fingerprint(model) if surveyed is None else surveyed.fingerprint,
        source=source,
        options=Options(
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
    layout = lay_out(model, tensors, first, memory=budget, cores=cores, surveyed=surveyed)
    stream: Iterator[Batch] = itertools.chain([first], batches)  # some sources can be read only once
    while True:
        try:
            return job.run(layout, stream)
        except Outgrown as larger:
            stream = source.batches()
            job.progress.note(f"{larger.batch.where} is larger than those before it; calibration begins afresh for it")
            layout = lay_out(model, tensors, larger.batch, memory=budget, cores=cores)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    model: ir.Model
    fingerprint: str
    source: Source
    options: Options
    progress: Progress
    executor: Executor | None
    checkpoint: Path | None

    def run(self, layout: Layout, stream: Iterator[Batch]) -> Statistics:
        """Run all waves, the first one over `stream`."""
        count = len(layout.waves)
        if count > 1:
            self.progress.note(f"the tapped tensors do not fit into memory at once: {count} waves over the data")
        seen: Seen = {}
        samples = 0
        checkpoints = [self._checkpoint(wave, number) for number, wave in enumerate(layout.waves, start=1)]
        try:
            for number, (wave, checkpoint) in enumerate(zip(layout.waves, checkpoints, strict=True), start=1):
                description = "calibrate" if count == 1 else f"calibrate, wave {number} of {count}"
                batches = stream if number == 1 else self.source.batches()
                found, samples = self._wave(wave, layout, batches, description, checkpoint)
                seen |= found
        except Outgrown:
            _remove(checkpoints)
            raise
        _remove(checkpoints)
        return Statistics(tensors=seen, fingerprint=self.fingerprint, samples=samples, synthetic=self.source.synthetic)

    def _wave(
        self,
        tensors: tuple[str, ...],
        layout: Layout,
        batches: Iterator[Batch],
        description: str,
        checkpoint: Checkpoint | None,
    ) -> tuple[Seen, int]:
        seen = {name: Accumulator() for name in tensors}
        done = 0
        if checkpoint is not None:
            resumed = checkpoint.load()
            if checkpoint.note:
                self.progress.note(checkpoint.note)
            if resumed is not None:
                for name, accumulator in seen.items():
                    accumulator.add(resumed.tensors[name])
                done = resumed.samples
                self.progress.note(f"{done} samples were observed before; going on from there")
        self.progress.start(self.source.samples, description)
        self.progress.advance(done)
        try:
            engine = self._engine(tensors, layout)
            for work, found in engine.observe(self._works(batches, layout, done)):
                for name, accumulator in seen.items():
                    accumulator.add(found[name])
                done += work.samples
                self.progress.advance(work.samples)
                if checkpoint is not None:
                    checkpoint.save(seen, done)
        except BaseException:
            if checkpoint is not None and done:
                checkpoint.save(seen, done, now=True)
            raise
        finally:
            self.progress.finish()
        if checkpoint is not None:
            checkpoint.save(seen, done, now=True)
        return {name: accumulator.result() for name, accumulator in seen.items()}, done

    def _engine(self, tensors: tuple[str, ...], layout: Layout) -> Engine:
        if self.executor is None:
            return Lanes(
                Taps(self.model, tensors, threads=layout.threads), self.options, lanes=layout.lanes, room=layout.room
            )
        return Shards(
            self.executor,
            self.model,
            self.fingerprint,
            tensors,
            threads=layout.threads,
            options=self.options,
            note=self.progress.note,
        )

    def _works(self, batches: Iterator[Batch], layout: Layout, skip: int) -> Iterator[Work]:
        """Yield the batches in pieces of work, the first `skip` samples left out."""
        enough = self._enough()
        how = {"free": self.source.chooses_size, "whole": self.source.signature.fixed_batch is not None}
        held: list[tuple[Batch, Portion]] = []
        for batch in batches:
            if skip > 0:
                skip -= batch.samples
                continue
            if skip < 0:
                raise CalibrationError("the data is not what it was before the interruption; delete the checkpoint")
            held.append((batch, layout.portion(batch, **how)))
            full = len(held) == _PIECE_BATCHES or _bytes(held) >= _PIECE_BYTES
            if full or sum(each.samples for each, _ in held) >= enough:
                yield _work(held)
                held = []
        if held:
            yield _work(held)

    def _enough(self) -> int:
        """How many samples make a piece of work: the same for the same data, whatever the engine."""
        return max(1, (self.source.samples or 0) // _PIECES)

    def _checkpoint(self, wave: tuple[str, ...], number: int) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        path = self.checkpoint if number == 1 else self.checkpoint.with_name(f"{self.checkpoint.name}.{number}")
        return Checkpoint(path, job_key(self.fingerprint, self.source, wave, self.options))


def _remove(checkpoints: list[Checkpoint | None]) -> None:
    for checkpoint in checkpoints:
        if checkpoint is not None:
            checkpoint.remove()


def _bytes(held: list[tuple[Batch, Portion]]) -> int:
    return sum(array.nbytes for batch, _ in held for array in batch.feeds.values())


def _work(held: list[tuple[Batch, Portion]]) -> Work:
    return Work(batches=tuple(batch for batch, _ in held), portions=tuple(portion for _, portion in held))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
