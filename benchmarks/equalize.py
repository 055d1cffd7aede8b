"""Equalizers: static 8 bits on MiniLM beside other tools, and every equalizer on and off on real models, as served.

python -m benchmarks.equalize [--parts minilm,ablation] [--models NAME,...] [--nncf PYTHON] [--markdown PAGE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnxq.numerics.metrics import ErrorSums
from onnxq.runtime.session import open_session
from onnxq.runtime.timing import time_interleaved

import models
from benchmarks.measure import Failure, environment, isolated, write_section
from benchmarks.tools import onnxruntime_defaults, onnxruntime_tuned

SECTION = "equalize"
SENTENCE = "sentence_embedding"
ATTENTION = [{"match": {"op": "MatMul", "weighted": False}, "keep": "float"}]
STATIC: Mapping[str, dict[str, Any]] = {
    "int8 (defaults)": {"recipe": "int8"},
    "int8, minmax, attention's products in float": {"calibrator": "minmax", "rules": ATTENTION},
    "the same, bias correction": {"calibrator": "minmax", "rules": ATTENTION, "bias_correction": "analytic"},
    "the same, smoothquant": {"calibrator": "minmax", "rules": ATTENTION, "equalize": ["smoothquant"]},
    "smoothquant-w8a8 (both)": {"recipe": "smoothquant-w8a8"},
    "ft-int8-mode1": {"recipe": "ft-int8-mode1"},
    "ft-int8-mode1, smoothquant": {"recipe": "ft-int8-mode1", "equalize": ["smoothquant"], "calibrator": "minmax"},
    "ft-int8-mode2": {"recipe": "ft-int8-mode2"},
    "ft-int8-mode2, smoothquant": {"recipe": "ft-int8-mode2", "equalize": ["smoothquant"], "calibrator": "minmax"},
}
LAYERS = ["Gather", "/lm_head/MatMul"]
FOUR_BITS = {
    "format": "weight-only",
    "weights": {"dtype": "uint4", "symmetric": False, "granularity": "per-block(128)", "method": "rtn"},
    "keep": LAYERS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model and how it is quantized; and the equalizers that are taken in turn, none first."""

    model: str
    what: str
    equalizers: tuple[tuple[str, ...], ...]
    options: Mapping[str, Any] = field(default_factory=dict)


EVERYWHERE = {"format": "qdq", "placement": "everywhere"}
CASES = (
    Case(model="minilm", what="int8 static, attention in float", equalizers=(("smoothquant",),),
         options={"calibrator": "minmax", "rules": ATTENTION}),
    Case(model="minilm", what="int8 dynamic", equalizers=(("smoothquant",),), options={"format": "dynamic"}),
    Case(model="ppocr-rec", what="int8 static", equalizers=(("smoothquant",), ("cross-layer",)), options=EVERYWHERE),
    Case(model="ppocr-rec", what="int8 static, per-tensor weights", equalizers=(("cross-layer",),),
         options={**EVERYWHERE, "weights": "per-tensor"}),
    Case(model="novel", what="int8 dynamic", equalizers=(("smoothquant",), ("hadamard",), ("hadamard", "smoothquant")),
         options={"format": "dynamic", "keep": LAYERS}),
    Case(model="novel", what="4 bits, blocks of 128", equalizers=(("awq",), ("hadamard",), ("hadamard", "awq")),
         options=FOUR_BITS),
    Case(model="smollm2", what="int8 dynamic", equalizers=(("smoothquant",),),
         options={"format": "dynamic", "keep": LAYERS}),
    Case(model="smollm2", what="4 bits, blocks of 128", equalizers=(("awq",), ("hadamard",)), options=FOUR_BITS),
    *(
        Case(model="digits", what=f"int8 static, {grain} weights", options={**EVERYWHERE, "weights": grain},
             equalizers=(("cross-layer",), ("absorb-bias",), ("cross-layer", "absorb-bias")))
        for grain in ("per-tensor", "per-channel")
    ),
)  # fmt: skip
LEGEND = """\
All as served by onnxruntime. **dB**: SQNR of the first output (MiniLM: of the sentence embedding) against float on the
evaluation data. **places**: where the equalizers did something, of all they looked at; `onnxq plan` says why not
elsewhere. Last column: the zoo's own figure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--parts", default="minilm,ablation", help="tables, separated by commas")
    parser.add_argument("--models", help="of the ablation's models these only, separated by commas")
    parser.add_argument("--only", default="", help="of MiniLM's contestants those whose name holds this")
    parser.add_argument("--nncf", help="a Python interpreter that has nncf")
    parser.add_argument("--markdown", type=Path, help="page in which to write the tables, in their own sections")
    options = parser.parse_args(arguments)
    asked = None if options.models is None else options.models.split(",")
    names = dict.fromkeys(case.model for case in CASES if asked is None or case.model in asked)
    tables: dict[str, Callable[[], list[str]]] = {}
    if "minilm" in options.parts.split(","):
        tables["minilm"] = lambda: minilm(options.nncf, options.only)
    if "ablation" in options.parts.split(","):
        tables["ablation"] = lambda: [*head("Equalizers on and off"), LEGEND]
        tables |= {f"ablation {name}": (lambda name=name: ablation(name)) for name in names}  # type: ignore[misc]
    for part, make in tables.items():
        text = "\n".join(make())
        print(text, flush=True)
        if options.markdown is not None:
            write_section(options.markdown, SECTION, text, part=part)
    return 0


def minilm(nncf: str | None, only: str = "") -> list[str]:
    """Return the lines of the table of static 8 bits on MiniLM."""
    contestants: dict[str, tuple[Any, ...]] = {
        "onnxruntime quantize_static, defaults": (onnxruntime_defaults, "minilm"),
        "onnxruntime, tuned (see Speed)": (onnxruntime_tuned, "minilm"),
        **({} if nncf is None else {"nncf, transformer mode": (nncf_makes, nncf)}),
    }
    lines = [*head("Static 8 bits on MiniLM"), "| by | cosine, mean | cosine, least | dB | speed |"]
    lines.append(f"|---|{'---:|' * 4}")
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        for by in (by for by in (*contestants, *STATIC) if only in by):
            path = Path(folder) / "model.onnx"
            path.unlink(missing_ok=True)
            if by in contestants:
                make, *first = contestants[by]
                made, _ = isolated(make, *first, path)
            else:
                made, _ = isolated(ours, "minilm", path, STATIC[by])
            found = made if isinstance(made, Failure) else isolated(cosines, path)[0]
            cells = f"{found.text[:70]} | | | " if isinstance(found, Failure) else found
            lines.append(f"| {by} | {cells} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return [*lines, "", "150 news texts that calibration does not see, batches of 8; speed: all of them, one thread."]


def ablation(name: str) -> list[str]:
    """Return the lines of one model's table."""
    zoo = models.load(name)
    metric = "metric" if zoo.metric is None else zoo.metric.name
    lines = [f"### {name}", "", f"| quantized | equalized | places | dB | {metric} |", "|---|---|---:|---:|---:|"]
    lines.append(f"| float | | | | {isolated(float_metric, name)[0]} |")
    for case in CASES:
        for equalizers in ((), *case.equalizers) if case.model == name else ():
            found, _ = isolated(scored, name, {**case.options, "equalize": list(equalizers)})
            cells = f"{found.text[:70]} | | " if isinstance(found, Failure) else found
            lines.append(f"| {case.what} | {', '.join(equalizers) or '-'} | {cells} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def head(title: str) -> list[str]:
    """Return a table's title and where it comes from."""
    where = environment(("onnxq", "onnxruntime"))
    return [f"## {title}", "", f"{where.date}, {where.processor} ({', '.join(where.features)}), one thread.", ""]


def ours(name: str, output: Path, options: Mapping[str, Any]) -> str:
    """Quantize; returns how many places were equalized."""
    import onnxq

    zoo = models.load(name)
    report = onnxq.quantize(zoo.path, output, calibration=_calibration(zoo), check=False, force=True, **options)
    entries = report.plan.equalizations
    return f"{sum(entry.taken for entry in entries)} of {len(entries)}" if entries else "-"


def scored(name: str, options: Mapping[str, Any]) -> str:
    """Return the cells of one row of an ablation."""
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        output = Path(folder) / "model.onnx"
        places = ours(name, output, options)
        zoo = models.load(name)
        before, after = open_session(zoo.path), open_session(output)
        judged = SENTENCE if SENTENCE in before.outputs else before.outputs[0]
        comparison = ErrorSums()
        for feeds in zoo.evaluation():
            comparison.add(before.run(feeds)[judged], after.run(feeds)[judged])
        figure = "" if zoo.metric is None else f"{zoo.metric.compute(after.run):.4g}"
        return f"{places} | {comparison.sqnr_db:.1f} | {figure}"


def float_metric(name: str) -> str:
    """Return the zoo's figure of the float model."""
    zoo = models.load(name)
    return "" if zoo.metric is None else f"{zoo.metric.compute(open_session(zoo.path).run):.4g}"


def cosines(path: Path) -> str:
    """Return the cells of one model of MiniLM's table: cosines to float, SQNR, and speed on all texts."""
    zoo = models.load("minilm")
    sessions = [open_session(zoo.path), open_session(path)]
    feeds = list(zoo.evaluation())
    rows: list[list[np.ndarray]] = [[], []]
    seconds = np.zeros(2)
    for each in feeds:
        timing = time_interleaved(sessions, each, budget=0.4)
        seconds += [timing.best_ms(0), timing.best_ms(1)]
        for kept, session in zip(rows, sessions, strict=True):
            kept.append(session.run(each)[SENTENCE].astype(np.float64))
    expected, got = (np.concatenate(each) for each in rows)
    cosine = (expected * got).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
    noise = 10 * np.log10(np.sum(expected**2) / np.sum((expected - got) ** 2))
    return f"{cosine.mean():.4f} | {cosine.min():.4f} | {noise:.1f} | {seconds[0] / seconds[1]:.2f}"


def nncf_makes(python: str, output: Path) -> None:
    """Nncf's transformer mode with nothing else said, in another interpreter."""
    zoo = models.load("minilm")
    arrays = {f"{index}/{key}": array for index, feeds in enumerate(zoo.calibration()) for key, array in feeds.items()}
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, **arrays)  # type: ignore[arg-type]
        script = Path(__file__).with_name("nncf_transformer.py")
        subprocess.run([python, script, zoo.path, data, output], check=True, capture_output=True)


def _calibration(zoo: models.ZooModel) -> Callable[[], Iterator[models.Feeds]]:
    """Return the zoo's batches, of language models the first 8: enough for moments of a few hundred features."""
    import itertools

    large = zoo.metric is not None and zoo.metric.name == "perplexity"
    return (lambda: itertools.islice(zoo.calibration(), 8)) if large else zoo.calibration


if __name__ == "__main__":
    sys.exit(main())
