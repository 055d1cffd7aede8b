"""benchmark: models side by side as they are served: time, memory, size, and how far their outputs differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxq.data import Source, signature, synthetic
from onnxq.data.batch import Batch
from onnxq.data.signature import InputSpec, Signature
from onnxq.errors import CalibrationError, ModelError, RecipeError, nearest
from onnxq.evaluate.comparison import Feeds, Run, compare_outputs
from onnxq.files.load import file_bytes, load
from onnxq.progress import Progress, Silent, step
from onnxq.runtime.footprint import footprint
from onnxq.runtime.session import CPU, Session, available_providers, open_session, versions
from onnxq.runtime.timing import RaceTimes, pinned, time_interleaved
from onnxq.types.benchmark import Benchmark, Measured, Setting

# What people call the execution providers.
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_PERCENTILE = 95


def benchmark(
    paths: Sequence[Path],
    *,
    providers: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    shapes: Mapping[str, int] | None = None,
    source: Source | None = None,
    seconds: float = 2.0,
    progress: Progress | None = None,
) -> Benchmark:
    """Run models in turns on the same inputs, in every combination of provider, threads and batch size.

    Args:
        paths: of models that take the same inputs; all others are compared with the first.
        providers: `cpu`, `cuda`, `tensorrt`, or onnxruntime's names.
        threads: intra-op threads, 0 for all cores.
        batches: samples a call.
        shapes: extents of free axes by their name.
        source: inputs, cut or repeated to the batch size; None: made up.
        seconds: to spend on timing in each setting; more on a busy machine.
        progress: reports every setting.

    Raises:
        ModelError: the runtime cannot load or run one of the models. CalibrationError: the inputs do not fit.
        RecipeError: an unknown provider or axis, or the same one twice.
    """
    progress = progress or Silent()
    inputs = signature(load(paths[0]))
    settings = [
        Setting(provider=_provider(name), threads=count, batch=batch)
        for name in providers
        for count in threads
        for batch in batches
    ]
    feeds = {batch: _inputs(inputs, batch, shapes or {}, source) for batch in batches}
    rows: list[Measured] = []
    warnings: list[str] = []
    with step(progress, len(settings), "benchmark"):
        for setting in settings:
            measured, settled = _measure(paths, setting, feeds[setting.batch], seconds)
            rows += measured
            if not settled:
                where = f"{setting.provider}, {setting.threads} threads, batch {setting.batch}"
                warnings.append(f"the machine was busy ({where}): the times are uncertain, measure again")
            progress.advance(1)
    return Benchmark(
        rows=tuple(rows),
        data="made-up inputs" if source is None else source.description,
        shapes={name: array.shape for name, array in feeds[batches[0]].items()},
        versions=versions(),
        warnings=tuple(warnings),
    )


def _measure(paths: Sequence[Path], setting: Setting, feeds: Feeds, budget: float) -> tuple[list[Measured], bool]:
    chain = tuple(dict.fromkeys((setting.provider, *CPU)))
    with pinned(setting.threads):
        costs = [footprint(path, feeds, threads=setting.threads, providers=chain) for path in paths]
        sessions = [open_session(path, threads=setting.threads, providers=chain) for path in paths]
        _check_alike(sessions, paths)
        worst = _worst_outputs(sessions, feeds)
        timing = time_interleaved(sessions, feeds, budget=budget)
    rows = []
    for index, path in enumerate(paths):
        rows.append(_row(path, setting, timing, index, cost=costs[index], sqnr=worst[index]))
    return rows, timing.settled


def _row(
    path: Path, setting: Setting, timing: RaceTimes, index: int, *, cost: tuple[float, int | None], sqnr: float
) -> Measured:
    median = timing.median_ms(index)
    return Measured(
        model=str(path),
        setting=setting,
        median_ms=median,
        p95_ms=float(np.percentile(timing.seconds[:, index], _PERCENTILE)) * 1e3,
        best_ms=timing.best_ms(index),
        runs=timing.rounds,
        throughput=1e3 * setting.batch / median,
        speedup=timing.ratio(0, index),
        noise=timing.noise,
        load_seconds=cost[0],
        memory_bytes=cost[1],
        file_bytes=file_bytes(path),
        sqnr=sqnr,
    )


def _worst_outputs(sessions: Sequence[Session], feeds: Feeds) -> list[float]:
    """Return the lowest SQNR of all outputs that hold floats against the first model's, in dB; NaN without any."""
    names = sessions[0].outputs

    def by_place(session: Session) -> Run:  # outputs of other tools' models may have other names
        return lambda feeds: dict(zip(names, session.run(feeds).values(), strict=True))

    expected = [(Batch(feeds=dict(feeds), where="benchmark"), sessions[0].run(feeds))]
    sums, _ = compare_outputs(expected, [by_place(session) for session in sessions])
    figures = [[errors.sqnr_db for errors in entry.errors] for entry in sums.values() if entry.is_float]
    return [min(column) for column in zip(*figures, strict=True)] or [math.nan] * len(sessions)


def _check_alike(sessions: Sequence[Session], paths: Sequence[Path]) -> None:
    for session, path in zip(sessions, paths, strict=True):
        if set(session.inputs) != set(sessions[0].inputs) or len(session.outputs) != len(sessions[0].outputs):
            raise ModelError(
                f"'{path}' has inputs {list(session.inputs)} and outputs {list(session.outputs)}, '{paths[0]}' has "
                f"{list(sessions[0].inputs)} and {list(sessions[0].outputs)}; compare forms of one model"
            )


def _provider(name: str) -> str:
    full = _PROVIDERS.get(name.lower(), name)
    known = available_providers()
    if full not in known and full not in _PROVIDERS.values():
        raise RecipeError(f"unknown execution provider '{name}'{nearest(name, [*_PROVIDERS, *known])}")
    return full


def _inputs(inputs: Signature, batch: int, shapes: Mapping[str, int], source: Source | None) -> Feeds:
    if source is not None:
        return _cut(source, batch)
    named = {dim for spec in inputs.inputs for dim in spec.dims or () if isinstance(dim, str)}
    for name in shapes:
        if name not in named:
            raise RecipeError(f"--shape {name}: no input has an axis of that name{nearest(name, named)}")
    guess = next(iter(synthetic(inputs, samples=1).batches())).feeds
    extents = {spec.name: list(_extents(inputs, spec, batch, shapes, guess[spec.name].shape)) for spec in inputs.inputs}
    return next(iter(synthetic(inputs, shapes=extents, samples=1).batches())).feeds


def _extents(
    inputs: Signature, spec: InputSpec, batch: int, shapes: Mapping[str, int], guess: Sequence[int]
) -> Iterator[int]:
    for axis, (dim, extent) in enumerate(zip(spec.dims or (), guess, strict=True)):
        if isinstance(dim, int):
            if axis == 0 and inputs.has_batch_axis and dim != batch:
                raise RecipeError(f"the model takes {dim} samples a call, not {batch}; leave --batch {batch} out")
            yield dim
        elif isinstance(dim, str) and dim in shapes:
            yield shapes[dim]
        else:
            yield batch if axis == 0 and inputs.has_batch_axis else extent


def _cut(source: Source, batch: int) -> Feeds:
    """Return the first samples of the source, as many as a batch has; they are repeated where there are too few."""
    first = next(iter(source.batches()), None)
    if first is None:
        raise CalibrationError("the data holds no samples")
    if not source.signature.has_batch_axis:
        return first.feeds
    return {
        name: np.resize(array, (batch, *array.shape[1:])) if array.ndim else array
        for name, array in first.feeds.items()
    }
