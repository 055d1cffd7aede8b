"""The guard: every zoo model in every format, none slower than float; and as served what the optimizer off promises.

python -m benchmarks.guard [--models digits,magika] [--formats qdq,dynamic] [--markdown docs/benchmarks.md]
python -m benchmarks.guard --mixed    # 20 layers of which some lose: the guard against configurations at random
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxq
from onnxq.data import open_source, signature
from onnxq.evaluate.verify import timed_batch
from onnxq.files.load import load
from onnxq.runtime.session import open_session
from onnxq.runtime.timing import time_interleaved
from onnxq.types.format import Format
from onnxq.types.plan import Action

import models
from benchmarks import networks
from benchmarks.measure import Failure, Speed, environment, isolated, race, write_section
from benchmarks.zoo import guarded

SECTION = "guard"
FORMATS = tuple(fmt.value for fmt in Format if fmt is not Format.AUTO)
HEADER = (
    "model",
    "format",
    "verdict",
    "speed",
    "all cores",
    "quantized",
    "back",
    "guard",
    "dB served",
    "dB off",
    "differ",
)
LEGEND = """\
- **verdict**: what the guard decided; *float*: the result is the float model. **speed**, **all cores**: float time /
  quantized time of the result, fastest calls in turns, at one thread and at all cores, with the bound of what may be
  chance. **quantized**, **back**: nodes, and those that the guard put back in float. **guard**: seconds it took.
- **served**, **off**: dB of the worst output of the result, optimizer on and off; **differ**: largest difference of the
  two over all outputs below 60 dB, of static and dynamic formats at most 1 dB.
- Calibrated and compared on the first batches of the zoo's data: errors are not those of the other tables."""
_BATCHES = 4
_ROUNDING_DB = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one model in one format; speeds are (ratio, noise) by thread count, dB of the worst output."""

    verdict: str
    message: str
    speeds: tuple[tuple[int, float, float], ...]
    quantized: int
    back: int
    seconds: float
    served: float
    plain: float
    differ: float


def outcome(name: str, fmt: str, output: Path) -> Outcome:
    """Quantize a zoo model with the guard on; in a process of its own."""
    report = guarded(name, output, _BATCHES, format=fmt)
    guard, verification = report.guard, report.verification
    assert guard is not None
    assert verification is not None
    numbers = [entry for entry in verification.outputs if not math.isnan(entry.sqnr_served)]
    differ = [
        0.0 if entry.sqnr_plain == entry.sqnr_served else abs(entry.sqnr_plain - entry.sqnr_served)
        for entry in numbers
        if min(entry.sqnr_plain, entry.sqnr_served) < _ROUNDING_DB
    ]
    return Outcome(
        verdict=guard.verdict,
        message=guard.message,
        speeds=tuple((entry.threads, entry.speedup, entry.noise) for entry in guard.races),
        quantized=sum(entry.action is Action.QUANTIZE for entry in report.plan.decisions),
        back=len({node for step in guard.steps if step.taken for node in step.nodes}),
        seconds=guard.seconds,
        served=min((entry.sqnr_served for entry in numbers), default=math.inf),
        plain=min((entry.sqnr_plain for entry in numbers), default=math.inf),
        differ=max(differ, default=0.0),
    )


def race_again(name: str, path: Path) -> list[Speed]:
    """Time a result on what the guard timed it on: one sample where the model leaves that open."""
    zoo = models.load(name)
    source = open_source(lambda: itertools.islice(zoo.evaluation(), 1), signature(load(zoo.path)))
    return race(name, [path], 2.0, feeds=timed_batch(source).feeds)


def row(name: str, fmt: str, folder: Path) -> tuple[str, ...]:
    """Quantize, and time the result once more, apart from the guard's own measurement."""
    print(f"{name}: {fmt}", file=sys.stderr, flush=True)
    path = folder / f"{name}.{fmt}.onnx"
    found, _ = isolated(outcome, name, fmt, path)
    if isinstance(found, Failure):
        return (name, fmt, found.text.replace("|", "/"), *["-"] * (len(HEADER) - 3))
    again, _ = isolated(race_again, name, path)
    speed = "-" if isinstance(again, Failure) else _speed(again[0])
    cores = next((f"{ratio:.2f}x ±{noise:.0%}" for threads, ratio, noise in found.speeds if threads == 0), "-")
    own = next((f" ({ratio:.2f}x ±{noise:.0%})" for threads, ratio, noise in found.speeds if threads == 1), "")
    return (
        name,
        fmt,
        found.verdict,
        f"{speed}{own}",
        cores,
        str(found.quantized),
        str(found.back),
        f"{found.seconds:.1f} s",
        _db(found.served),
        _db(found.plain),
        f"{found.differ:.2f}",
    )


def _speed(speed: Speed) -> str:
    return f"{speed.ratio:.2f}x"


def _db(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "broken")


def mixed(folder: Path, samples: int) -> list[str]:
    """Let the guard loose on 20 mixed layers, and time configurations at random beside its choice."""
    source, feeds = folder / "mixed.onnx", networks.mixed_feeds()
    networks.mixed(source)
    options: dict[str, Any] = {"calibration": [feeds], "threads": 1, "placement": "everywhere"}
    guarded = onnxq.quantize(source, folder / "guarded.onnx", **options, force=True)
    plain = onnxq.quantize(source, folder / "all.onnx", **options, check=False)
    nodes = [entry.node for entry in plain.plan.decisions if entry.kernel is not None]
    generator = np.random.default_rng(0)
    paths = [source, folder / "all.onnx", folder / "guarded.onnx"]
    for index in range(samples):
        kept = [node for node in nodes if generator.random() < 0.5]
        paths.append(folder / f"sample{index}.onnx")
        onnxq.quantize(source, paths[-1], **options, keep=kept, check=False)
    timing = time_interleaved([open_session(path) for path in paths], feeds, budget=15.0)
    ratios = sorted((timing.ratio(0, index) for index in range(3, len(paths))), reverse=True)
    assert guarded.guard is not None
    back = len(set(nodes) - {entry.node for entry in guarded.plan.decisions if entry.action is Action.QUANTIZE})
    return [
        "### 20 mixed layers",
        "",
        f"{len(nodes)} nodes have integer kernels, and all of them are quantized (`placement: everywhere`): "
        f"{timing.ratio(0, 1):.2f}x. The guard puts {back} back in float: {timing.ratio(0, 2):.2f}x, in "
        f"{guarded.guard.seconds:.1f} s. {samples} configurations at random, each node in float or in 8 bits: best "
        f"{ratios[0]:.2f}x, median {ratios[len(ratios) // 2]:.2f}x, worst {ratios[-1]:.2f}x. Noise {timing.noise:.1%}.",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 done, 2 usage)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default=",".join(models.names()), help="zoo models, separated by commas")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, separated by commas")
    parser.add_argument("--mixed", action="store_true", help="the model of 20 mixed layers as well")
    parser.add_argument("--samples", type=int, default=40, help="configurations of it at random")
    parser.add_argument("--markdown", type=Path, help="page in which to write the table, in its own section")
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    measured = f"{where.date}, {where.processor} ({', '.join(where.features)})."
    parts: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        if options.models:
            lines = ["## Never slower", "", measured, ""]
            lines += [f"| {' | '.join(HEADER)} |", f"|{'---|' * 3}{'---:|' * (len(HEADER) - 3)}"]
            for name, fmt in itertools.product(options.models.split(","), options.formats.split(",")):
                lines.append(f"| {' | '.join(row(name, fmt, Path(folder)))} |")
                print(lines[-1], file=sys.stderr, flush=True)
            parts[""] = [*lines, "", LEGEND]
        if options.mixed:
            parts["mixed"] = [*mixed(Path(folder), options.samples), "", measured]
    for part, lines in parts.items():
        text = "\n".join(lines)
        if options.markdown is not None:
            write_section(options.markdown, SECTION, text, part=part)
        else:
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
