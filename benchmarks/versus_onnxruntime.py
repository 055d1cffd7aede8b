"""``onnxq.quantize(format="qdq")`` next to ``onnxruntime.quantization.quantize_static`` on every model of the zoo.

    python -m benchmarks.versus_onnxruntime [--models digits,magika] [--markdown docs/benchmarks.md] [--json FILE]

Every tool gets the same calibration batches, every result the same evaluation batches and the same ruler.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from benchmarks.measure import (
    Cost,
    Environment,
    Failure,
    Judgement,
    Speed,
    environment,
    isolated,
    judge,
    race,
    write_section,
)
from benchmarks.tools import TOOLS

SECTION = "versus_onnxruntime"
MAIN_OUTPUT = {"minilm": "sentence_embedding"}
"""The output that a model is used for, where that is not its first."""

HEADER = (
    *("model", "by", "ends", "dB off", "dB served", "worst", "agree"),
    *("metric", "size", "speed", "8-bit/other/QDQ", "s", "MB"),
)
LEGEND = """\
- **dB off / served**: SQNR of the model's main output against the float model's, with onnxruntime's optimizer off and
  as served (all optimizations); **worst**: the lowest of all outputs, as served.
- **agree**: share of positions of the main output whose arg-max is the float model's, as served.
- **metric**: the zoo's figure of merit on labelled data, float -> quantized, as served.
- **size**: float file / quantized file. **speed**: float time / quantized time on one evaluation batch, one thread, all
  models interleaved in one process, median of pairwise ratios; over 1 is faster than float.
- **8-bit/other/QDQ**: nodes that run on codes, nodes that do not, and QuantizeLinear and DequantizeLinear nodes left,
  all as served.
- **s**, **MB**: time to quantize, calibration included, and peak memory of the process.
- *onnxruntime*: `quantize_static(model, output, data)`. *onnxruntime, tuned*: `quant_pre_process` first, then uint8
  activations, int8 weights, `per_channel=True`, `reduce_range=False`. *onnxq*: `onnxq.quantize(model, output,
  calibration=data, format="qdq")`. The same calibration batches for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One tool on one model; ``judgement`` and ``speed`` are a Failure from the step on that failed."""

    tool: str
    cost: Cost
    judgement: Judgement | Failure
    speed: Speed | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All tools on one model, beside the float model itself."""

    model: str
    float_size: int
    float_metric: float | None
    metric_name: str | None
    entries: tuple[Entry, ...]


def compare(name: str, folder: Path) -> Comparison:
    """Quantize one model with every tool, judge each result, and time those that run."""
    zoo = models.load(name)
    before, _ = isolated(judge, name, zoo.path)
    if isinstance(before, Failure):
        raise SystemExit(f"error: the float model {name} does not run: {before.text}")
    judged: list[tuple[str, Cost, Judgement | Failure]] = []
    paths: dict[str, Path] = {}
    for index, (tool, make) in enumerate(TOOLS.items()):
        print(f"{name}: {tool}", file=sys.stderr, flush=True)
        path = folder / f"{name}.{index}.onnx"
        made, cost = isolated(make, name, path)
        if made is not None:
            judged.append((tool, cost, made))
            continue
        judgement, _ = isolated(judge, name, path)
        judged.append((tool, cost, judgement))
        if isinstance(judgement, Judgement):
            paths[tool] = path
    times, _ = isolated(race, name, list(paths.values()))
    if isinstance(times, Failure):
        raise SystemExit(f"error: the models of {name} do not run side by side: {times.text}")
    speeds = dict(zip(paths, times, strict=True))
    return Comparison(
        model=name,
        float_size=before.size,
        float_metric=before.metric,
        metric_name=None if zoo.metric is None else zoo.metric.name,
        entries=tuple(
            Entry(tool=tool, cost=cost, judgement=judgement, speed=speeds.get(tool)) for tool, cost, judgement in judged
        ),
    )


def rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Yield the table's cells, one row a tool."""
    for index, entry in enumerate(comparison.entries):
        label = comparison.model if index == 0 else ""
        cost = (f"{entry.cost.seconds:.0f}", f"{entry.cost.peak_mb:.0f}")
        found = entry.judgement
        if isinstance(found, Failure):
            yield (label, entry.tool, found.text.replace("|", "/"), *["-"] * 8, *cost)
            continue
        main = next((one for one in found.outputs if one.name == MAIN_OUTPUT.get(comparison.model)), found.outputs[0])
        yield (
            label,
            entry.tool,
            "yes" if found.integer_nodes else "yes, nothing quantized",
            _db(main.plain),
            _db(main.served),
            _db(min(one.served for one in found.outputs)),
            "-" if main.agreement is None else f"{main.agreement:.1%}",
            _metric(comparison, found.metric),
            f"{comparison.float_size / found.size:.2f}x",
            "-" if entry.speed is None else f"{entry.speed.ratio:.2f}x",
            f"{found.integer_nodes}/{found.other_nodes}/{found.conversions}",
            *cost,
        )


def markdown(comparisons: Sequence[Comparison], where: Environment) -> str:
    """Return the section of the page: what was measured where, the table, and what its columns mean."""
    versions = ", ".join(f"{package} {number}" for package, number in where.versions.items())
    lines = [
        "## onnxq and onnxruntime's own quantizer",
        "",
        f"{where.date}, {where.processor} ({', '.join(where.features) or 'no 8-bit features known'}), one thread, on a "
        f"machine shared with other work: {versions}.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * 3}{'---:|' * (len(HEADER) - 3)}",
        *(f"| {' | '.join(row)} |" for comparison in comparisons for row in rows(comparison)),
        "",
        LEGEND,
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 done, 2 usage)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", help="names of zoo models, separated by commas; all if left out")
    parser.add_argument("--markdown", type=Path, help="page in which to write the table, in its own section")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(arguments)
    known = models.names()
    chosen = known if options.models is None else options.models.split(",")
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            parser.error(f"no model {name!r} in the zoo; {f'did you mean {near[0]!r}?' if near else ', '.join(known)}")
    where = environment(("onnxq", "onnxruntime", "onnx", "onnx-ir", "numpy"))
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        for name in chosen:
            comparisons.append(compare(name, Path(folder)))
            # After every model, so that an interrupted run leaves what it has.
            if options.json is not None:
                figures = {"environment": where, "comparisons": comparisons}
                options.json.write_text(json.dumps(figures, default=_plain, indent=1) + "\n", encoding="utf-8")
            for row in rows(comparisons[-1]):
                print(" | ".join(row), file=sys.stderr, flush=True)
    text = markdown(comparisons, where)
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    else:
        print(text)
    return 0


def _db(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else str(value)


def _metric(comparison: Comparison, value: float | None) -> str:
    if value is None or comparison.float_metric is None:
        return "-"
    return f"{comparison.metric_name}: {comparison.float_metric:.3f} -> {value:.3f}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


if __name__ == "__main__":
    sys.exit(main())
