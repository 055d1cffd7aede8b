"""What every benchmark needs: a process of its own for each step, one ruler for everybody's models, one for time.

Models of the zoo go by name and quantized models by path, so that each step can run in a fresh process: a tool that
crashes, or keeps memory, harms no other figure.
"""

from __future__ import annotations

import datetime
import multiprocessing
import platform
import re
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from onnxq.numerics.metrics import ErrorSums, argmax_agreement
from onnxq.runtime.mapping import runs_as
from onnxq.runtime.readback import optimized_graph, remaining
from onnxq.runtime.session import open_session
from onnxq.runtime.timing import time_interleaved

import models
from models import Feeds, ZooModel

T = TypeVar("T")

_HEAD, _TAIL = 70, 110  # characters of a long message: what happened, and to what it came down
_FEATURES = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A step that did not end well. ``text``: kind of exception and its first words."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a step took, besides its value: wall-clock seconds and the process's peak memory in MB."""

    seconds: float
    peak_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputScore:
    """One graph output against the float model's: SQNR in dB, and the share of positions whose arg-max agrees.

    ``plain`` is with the optimizer off, ``served`` and ``agreement`` as served; agreement is None where the output has
    no classes to choose from.
    """

    name: str
    plain: float
    served: float
    agreement: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One model as onnxruntime runs it.

    Attributes:
        outputs: in graph order. metric: the zoo's figure, None where it has none. size: bytes of the file.
        integer_nodes, other_nodes: nodes of the model that run on codes, and those that do not, constants left out.
        conversions: QuantizeLinear and DequantizeLinear nodes that are run as such.
    """

    outputs: tuple[OutputScore, ...]
    metric: float | None
    size: int
    integer_nodes: int
    other_nodes: int
    conversions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Float time / quantized time, pair by pair: the median and the quartiles; and the median time itself."""

    ratio: float
    low: float
    high: float
    milliseconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where the figures come from."""

    date: str
    processor: str
    features: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)


def isolated(function: Callable[..., T], *arguments: Any) -> tuple[T | Failure, Cost]:
    """Call a function of a module in a fresh process; an exception, or the death of the process, is a Failure."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, function, arguments).result()
        except BrokenProcessPool:
            return Failure(text="the process died"), Cost(seconds=0.0, peak_mb=0.0)


def _measured(function: Callable[..., T], arguments: Sequence[Any]) -> tuple[T | Failure, Cost]:
    began = time.perf_counter()
    value: T | Failure
    try:
        value = function(*arguments)
    except Exception as error:  # whatever it is, it is the result
        root = error.__cause__ or error  # the runtime's own words, where onnxq put them into its own
        value = Failure(text=f"{type(root).__name__}: {_short(str(root))}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return value, Cost(seconds=time.perf_counter() - began, peak_mb=peak)


def _short(message: str) -> str:
    """A message in one line, without places in this machine's file system."""
    line = " ".join(message.split())
    line = re.sub(r"Load model from \S+ failed:\s*", "", line)
    line = re.sub(r"'?/\S+\.onnx'?", "the model", line)
    return line if len(line) <= _HEAD + _TAIL else f"{line[:_HEAD]} ... {line[-_TAIL:]}"


def judge(name: str, path: Path) -> Judgement:
    """Compare a model with the zoo's float model ``name`` on all of its evaluation inputs, and score its metric."""
    zoo = models.load(name)
    reference = open_session(zoo.path, optimize=False)
    plain, served = open_session(path, optimize=False), open_session(path)
    off = {output: ErrorSums() for output in reference.outputs}
    on = {output: ErrorSums() for output in reference.outputs}
    agreeing = {output: np.zeros(2, dtype=np.int64) for output in reference.outputs}
    for batch in zoo.evaluation():
        expected, y, z = reference.run(batch), plain.run(batch), served.run(batch)
        for output, x in expected.items():
            off[output].add(x, y[output])
            on[output].add(x, z[output])
            agreeing[output] += argmax_agreement(x, z[output]) or (0, 0)
    metric = None if zoo.metric is None else zoo.metric.compute(served.run)
    optimized = optimized_graph(path, layout=False)
    runs = runs_as(ir.load(path), optimized)
    integer = sum(found.integer for found in runs.values())
    return Judgement(
        outputs=tuple(
            OutputScore(
                name=output,
                plain=off[output].sqnr_db,
                served=on[output].sqnr_db,
                agreement=float(hits / total) if total else None,
            )
            for output, (hits, total) in agreeing.items()
        ),
        metric=metric,
        size=path.stat().st_size,
        integer_nodes=integer,
        other_nodes=len(runs) - integer,
        conversions=sum(len(names) for names in remaining(optimized).values()),
    )


def race(name: str, paths: Sequence[Path], budget: float = 6.0, *, feeds: Feeds | None = None) -> list[Speed]:
    """Time models beside the zoo's float model: one process, one thread, interleaved, on one batch (`timed_batch`)."""
    zoo = models.load(name)
    sessions = [open_session(path) for path in (zoo.path, *paths)]
    timing = time_interleaved(sessions, timed_batch(zoo) if feeds is None else feeds, budget=budget)
    speeds = []
    for index in range(1, len(sessions)):
        low, middle, high = np.percentile(timing.seconds[:, 0] / timing.seconds[:, index], [25, 50, 75])
        speeds.append(
            Speed(ratio=float(middle), low=float(low), high=float(high), milliseconds=timing.median_ms(index))
        )
    return speeds


def timed_batch(zoo: ZooModel) -> Feeds:
    """The evaluation batch in the middle of all when sorted by size: neither the shortest text nor the longest."""
    batches = sorted(zoo.evaluation(), key=lambda batch: sum(array.size for array in batch.values()))
    return batches[len(batches) // 2]


def environment(packages: Sequence[str]) -> Environment:
    """Tell date, processor and versions."""
    names, flags = [platform.machine()], set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line.partition(":") for line in info.read_text(encoding="utf-8").splitlines()]
        names = [value.strip() for key, _, value in lines if key.strip() == "model name"] or names
        flags = {flag for key, _, value in lines if key.strip() == "flags" for flag in value.split()}
    return Environment(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        processor=names[0],
        features=tuple(feature for feature in _FEATURES if feature in flags),
        versions={"python": platform.python_version()} | {package: version(package) for package in packages},
    )


def write_section(file: Path, section: str, text: str, *, part: str = "") -> None:
    """Put ``text`` between a page's two marks for ``section``, or its ``part``; at its end where it has none yet."""
    place = f"{section} {part}".strip()
    begin, end = f"<!-- {place}: written by python -m benchmarks.{section} -->", f"<!-- {place}: end -->"
    page = file.read_text(encoding="utf-8") if file.is_file() else "# Benchmarks\n"
    block = f"{begin}\n\n{text.strip()}\n\n{end}"
    if begin in page and end in page:
        page = page[: page.index(begin)] + block + page[page.index(end) + len(end) :]
    else:
        page = f"{page.rstrip()}\n\n{block}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
