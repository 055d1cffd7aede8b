"""Speed as served: networks of known shapes in 8 bits, onnxq beside onnxruntime's quantizer, one thread.

python -m benchmarks.speed [--cases resnet50,bert] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnxq.runtime.session import open_session
from onnxq.runtime.timing import pinned, time_interleaved

import models
from benchmarks import networks
from benchmarks.measure import Cost, Failure, environment, isolated, write_section
from models import Feeds

SECTION = "speed"
HEADER = ("network", "by", "ms", "against float", "noise", "asked")
LEGEND = """\
- **ms**: fastest call; **against float**: float time / quantized time, all forms of a network in turns in one process
  on one core, fastest calls; **noise**: how far the three fastest calls of a form lie apart, at most. **asked**: what
  onnxq should reach in its best form.
- Weights of ResNet-50 and BERT-base are random: their times are those of the real networks, their errors mean nothing.
- *onnxruntime*: `quantize_static` with model, output and data alone, and as its documentation advises for this
  processor (preprocessed; uint8 activations, int8 weights, a scale per channel); `quantize_dynamic` likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network: what writes it, what it is timed on, the 8-bit formats to try, and the speed asked of the best."""

    title: str
    write: Callable[[Path], None]
    feeds: Callable[[], Feeds]
    formats: tuple[str, ...]
    asked: float


def _image() -> Feeds:
    return {"x": np.random.default_rng(0).standard_normal(networks.IMAGE).astype(np.float32)}


def _tokens(batch: int, length: int, names: Sequence[str] = ("input_ids", "attention_mask")) -> Feeds:
    made: Feeds = {name: np.ones((batch, length), np.int64) for name in names}
    made["input_ids"] = np.random.default_rng(0).integers(1000, 30000, (batch, length))
    return made


def _minilm(path: Path) -> None:
    path.write_bytes(models.load("minilm").path.read_bytes())


def _sentences() -> Feeds:
    batch = next(iter(models.load("minilm").evaluation()))
    return _tokens(32, 32, tuple(batch))


CASES: Mapping[str, Case] = {
    "resnet50": Case(
        title="ResNet-50, 1x3x224x224", write=networks.resnet50, feeds=_image, formats=("qdq",), asked=1.95
    ),
    "bert": Case(
        title="BERT-base, 1x128",
        write=networks.bert,
        feeds=lambda: _tokens(1, 128),
        formats=("qdq", "dynamic"),
        asked=1.85,
    ),
    "minilm": Case(title="MiniLM, 32x32", write=_minilm, feeds=_sentences, formats=("qdq", "dynamic"), asked=1.8),
}


def quantize(name: str, fmt: str, folder: Path) -> None:
    """Ours, as planned; the guard would time it once more."""
    import onnxq

    case = CASES[name]
    onnxq.quantize(
        folder / "float.onnx",
        folder / f"onnxq-{fmt}.onnx",
        calibration=[case.feeds()],
        format=fmt,
        check=False,
        force=True,
    )


def theirs(name: str, how: str, folder: Path) -> None:
    """onnxruntime's quantizer: `static`, `static tuned` or `dynamic tuned`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = iter([CASES[name].feeds()])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feeds | None:
            return next(batches, None)

    source, output = folder / "float.onnx", folder / f"onnxruntime-{how.replace(' ', '-')}.onnx"
    tuned: dict[str, Any] = {}
    if how != "static":
        prepared = folder / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        source = prepared
        tuned = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": False}
    if how == "dynamic tuned":
        quantize_dynamic(source, output, **tuned)
        return
    if tuned:
        tuned["activation_type"] = QuantType.QUInt8
    quantize_static(source, output, Reader(), **tuned)


def race(name: str, paths: Sequence[Path], budget: float) -> list[tuple[float, float, float]]:
    """Time models in turns; returns milliseconds, float time / time, and noise of each, the float model's first."""
    with pinned(1):
        sessions = [open_session(path) for path in paths]
        timing = time_interleaved(sessions, CASES[name].feeds(), budget=budget)
    return [(timing.best_ms(index), timing.ratio(0, index), timing.noise) for index in range(len(paths))]


def run(name: str, folder: Path, budget: float) -> list[tuple[str, ...]]:
    """Return the rows of one network."""
    case = CASES[name]
    case.write(folder / "float.onnx")
    made: dict[str, Path] = {"float": folder / "float.onnx"}
    failed: dict[str, Failure] = {}
    jobs: list[tuple[str, Callable[..., None], str, str]] = [
        (f"onnxq {fmt}", quantize, fmt, f"onnxq-{fmt}.onnx") for fmt in case.formats
    ]
    for how in ("static", "static tuned", *(("dynamic tuned",) if "dynamic" in case.formats else ())):
        jobs.append((f"onnxruntime {how}", theirs, how, f"onnxruntime-{how.replace(' ', '-')}.onnx"))
    for label, function, how, file in jobs:
        print(f"{name}: {label}", file=sys.stderr, flush=True)
        done: tuple[Failure | None, Cost] = isolated(function, name, how, folder)
        if isinstance(done[0], Failure):
            failed[label] = done[0]
        else:
            made[label] = folder / file
    times, _ = isolated(race, name, list(made.values()), budget)
    if isinstance(times, Failure):
        return [(case.title, times.text, *["-"] * 4)]
    rows = [
        (
            case.title,
            label,
            f"{milliseconds:.2f}",
            f"{ratio:.2f}x",
            f"{noise:.1%}",
            f"{case.asked}x" if label.startswith("onnxq") else "",
        )
        for label, (milliseconds, ratio, noise) in zip(made, times, strict=True)
    ]
    return [*rows, *((case.title, label, f"failed: {found.text}", "-", "-", "") for label, found in failed.items())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 done, 2 usage)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="networks, separated by commas")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds to time each network")
    parser.add_argument("--markdown", type=Path, help="page in which to write the table, in its own section")
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    lines = [
        "## Speed",
        "",
        f"{where.date}, {where.processor} ({', '.join(where.features)}), one thread.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|---|---|{'---:|' * (len(HEADER) - 2)}",
    ]
    for name in options.cases.split(","):
        with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
            lines += [f"| {' | '.join(row)} |" for row in run(name, Path(folder), options.budget)]
    text = "\n".join([*lines, "", LEGEND])
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
