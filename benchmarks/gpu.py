"""On an NVIDIA GPU: float, float16, and what targets cuda and tensorrt make of networks of known shapes.

    python -m benchmarks.gpu [--cases resnet50,bert] [--markdown docs/benchmarks.md]

Needs onnxruntime-gpu and its CUDA libraries (torch brings them: it is loaded first where it is installed). On a machine
without a GPU nothing is run, and a message says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxq
from onnxq.errors import OnnxqError
from onnxq.numerics.metrics import ErrorSums
from onnxq.runtime.session import Session, open_session, versions
from rich.console import Console
from rich.table import Table

from benchmarks.measure import environment, write_section
from benchmarks.speed import CASES

SECTION = "gpu"
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
HEAD = ("network", "variant", "provider", "ms", "speed", "dB")
_WARM, _RUNS = 10, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """How a network is made: options of `quantize` (None: as it is), and the provider that runs it."""

    provider: str
    options: Mapping[str, Any] | None


VARIANTS: Mapping[str, Variant] = {
    "float": Variant(provider=CUDA, options=None),
    "float16": Variant(provider=CUDA, options={"target": "cuda", "recipe": "fp16"}),
    "dynamic int8": Variant(provider=CUDA, options={"target": "cuda", "format": "dynamic"}),
    "4-bit weights": Variant(provider=CUDA, options={"target": "cuda", "format": "weight-only"}),
    "TensorRT float": Variant(provider=TENSORRT, options=None),
    "TensorRT int8": Variant(provider=TENSORRT, options={"target": "tensorrt", "format": "qdq"}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One variant: fastest call in milliseconds and SQNR of the first output in dB, or what went wrong."""

    milliseconds: float | None = None
    decibels: float | None = None
    failure: str = ""


def available() -> tuple[str, ...]:
    """Return the GPU providers that can be started here."""
    with contextlib.suppress(ImportError):
        importlib.import_module("torch")  # loads the CUDA and cuDNN libraries that the providers need
    installed = versions()["onnxruntime.providers"]
    return tuple(name for name in (CUDA, TENSORRT) if name in installed and _starts(name))


def _starts(provider: str) -> bool:
    from onnxq.graph.text import model_from_text

    model = model_from_text('<ir_version: 8, opset_import: ["" : 13]>\ng (float[1] x) => (float[1] y) { y = Abs (x) }')
    try:
        open_session(model, providers=(provider, CPU))
    except OnnxqError:
        return False
    return True


def measure(name: str, providers: Sequence[str], folder: Path) -> dict[str, Result]:
    """Make every variant of a network and run it on its provider."""
    case, source = CASES[name], folder / "float.onnx"
    case.write(source)
    feeds = case.feeds()
    expected = next(iter(open_session(source, optimize=False).run(feeds).values()))
    found = {}
    for label, variant in VARIANTS.items():
        if variant.provider not in providers:
            continue
        try:
            path = source if variant.options is None else folder / f"{label}.onnx"
            if variant.options is not None:
                onnxq.quantize(source, path, calibration=[feeds], check=False, force=True, **variant.options)
            found[label] = _run(open_session(path, providers=(variant.provider, CPU)), feeds, expected)
        except OnnxqError as error:
            found[label] = Result(failure=str(error))
    return found


def _run(session: Session, feeds: Mapping[str, np.ndarray], expected: np.ndarray) -> Result:
    for _ in range(_WARM):
        output = next(iter(session.run(feeds).values()))
    best = float("inf")
    for _ in range(_RUNS):  # a call returns when its outputs are on the CPU: copies count
        began = time.perf_counter()
        session.run(feeds)
        best = min(best, time.perf_counter() - began)
    compared = ErrorSums()
    compared.add(expected, output.astype(expected.dtype))
    return Result(milliseconds=1e3 * best, decibels=compared.sqnr_db)


def rows(results: Mapping[str, Mapping[str, Result]]) -> list[list[str]]:
    """One row a network and variant; speed against float on CUDA."""
    listed = []
    for name, found in results.items():
        whole = found["float"].milliseconds if "float" in found else None
        for label, result in found.items():
            row = [CASES[name].title, label, VARIANTS[label].provider.removesuffix("ExecutionProvider")]
            if result.milliseconds is None or result.decibels is None:
                listed.append([*row, result.failure, "", ""])
                continue
            speed = "" if whole is None else f"{whole / result.milliseconds:.2f}x"
            listed.append([*row, f"{result.milliseconds:.3f}", speed, f"{result.decibels:.1f}"])
    return listed


def markdown(table: Sequence[Sequence[str]], device: str) -> str:
    """The table as Markdown, with where it comes from."""
    where = environment(("onnxruntime-gpu",))
    lines = [
        "## On a GPU",
        "",
        f"{where.date}, {device}, onnxruntime-gpu {where.versions['onnxruntime-gpu']}, fastest of {_RUNS} calls.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
        *("| " + " | ".join(row) + " |" for row in table),
    ]
    return "\n".join(lines)


def _device() -> str:
    try:
        torch = importlib.import_module("torch")
        return str(torch.cuda.get_device_name(0))
    except (ImportError, RuntimeError):
        return "an NVIDIA GPU"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to; code 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="resnet50,bert")
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args(arguments)
    providers = available()
    if not providers:
        installed = versions()
        print(
            f"onnxruntime {installed['onnxruntime']} with {installed['onnxruntime.providers']} cannot start {CUDA}: "
            "run this on a machine with an NVIDIA GPU and onnxruntime-gpu (pip install 'onnxq[gpu]')",
            file=sys.stderr,
        )
        return 2
    results = {}
    for name in chosen.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, providers, Path(folder))
    found = rows(results)
    table = Table(*HEAD)
    for row in found:
        table.add_row(*row)
    Console().print(table)
    if chosen.markdown is not None:
        write_section(chosen.markdown, SECTION, markdown(found, _device()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
