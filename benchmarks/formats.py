"""Formats side by side: what each tool makes of a model in a format, under one ruler.

python -m benchmarks.formats [--models minilm] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import models
from benchmarks.measure import Cost, Failure, Judgement, Speed, environment, isolated, judge, race, write_section
from benchmarks.weight_only_tools import WEIGHT_ONLY

SECTION = "formats"
FORMATS: Mapping[str, Mapping[str, Callable[[str, Path], None]]] = {"weight-only, 4 bit, blocks of 32": WEIGHT_ONLY}
MODELS = {"weight-only, 4 bit, blocks of 32": ("minilm",)}
MAIN_OUTPUT = {"minilm": "sentence_embedding"}

HEADER = ("model", "by", "dB off", "dB served", "worst", "metric", "size", "speed", "s")
LEGEND = """\
- **dB off / served**: SQNR of the model's main output against the float model's, with onnxruntime's optimizer off and
  as served; **worst**: the lowest of all outputs, as served. **metric**: the zoo's figure of merit, as served.
- **size**: quantized file / float file. **speed**: float time / quantized time, one thread, all models interleaved in
  one process, median of pairwise ratios; over 1 is faster than float. **s**: seconds to quantize.
- *onnxruntime*: `MatMulNBitsQuantizer(model, bits=4, block_size=32, accuracy_level=4)`, which quantizes products alone;
  k_quant and hqq are its other algorithms; hqq needs torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One tool on one model; `speed` is None where the model does not run."""

    model: str
    tool: str
    cost: Cost
    judgement: Judgement | Failure
    ratio: float
    speed: Speed | None


def compare(name: str, tools: Mapping[str, Callable[[str, Path], None]], folder: Path) -> list[Entry]:
    """Quantize one model with every tool, judge each result, and time those that run."""
    zoo = models.load(name)
    judged: list[tuple[str, Cost, Judgement | Failure]] = []
    paths: dict[str, Path] = {}
    for index, (tool, make) in enumerate(tools.items()):
        print(f"{name}: {tool}", file=sys.stderr, flush=True)
        path = folder / f"{name}.{index}.onnx"
        made, cost = isolated(make, name, path)
        judgement = made if made is not None else isolated(judge, name, path)[0]
        judged.append((tool, cost, judgement))
        if isinstance(judgement, Judgement):
            paths[tool] = path
    times, _ = isolated(race, name, list(paths.values()))
    speeds = {} if isinstance(times, Failure) else dict(zip(paths, times, strict=True))
    whole = zoo.path.stat().st_size
    return [
        Entry(
            model=name,
            tool=tool,
            cost=cost,
            judgement=found,
            ratio=found.size / whole if isinstance(found, Judgement) else 0.0,
            speed=speeds.get(tool),
        )
        for tool, cost, found in judged
    ]


def rows(entries: Sequence[Entry]) -> Iterator[tuple[str, ...]]:
    """Yield the table's cells, one row a tool."""
    for entry in entries:
        found = entry.judgement
        if isinstance(found, Failure):
            yield (entry.model, entry.tool, found.text.replace("|", "/"), *["-"] * 6)
            continue
        main = next((one for one in found.outputs if one.name == MAIN_OUTPUT.get(entry.model)), found.outputs[0])
        yield (
            entry.model,
            entry.tool,
            f"{main.plain:.2f}",
            f"{main.served:.2f}",
            f"{min(one.served for one in found.outputs):.2f}",
            "-" if found.metric is None else f"{found.metric:.3f}",
            f"{entry.ratio:.3f}",
            "-" if entry.speed is None else f"{entry.speed.ratio:.2f}x",
            f"{entry.cost.seconds:.0f}",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 done, 2 usage)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument(
        "--models", help="names of zoo models, separated by commas; those that fit each format if left out"
    )
    parser.add_argument("--markdown", type=Path, help="page in which to write the tables, in their own section")
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    lines = ["## Formats", "", f"{where.date}, {where.processor} ({', '.join(where.features)}), one thread."]
    for label, tools in FORMATS.items():
        lines += ["", f"### {label}", "", f"| {' | '.join(HEADER)} |", f"|{'---|' * 2}{'---:|' * (len(HEADER) - 2)}"]
        with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
            for name in MODELS[label] if options.models is None else options.models.split(","):
                lines += [f"| {' | '.join(row)} |" for row in rows(compare(name, tools, Path(folder)))]
    text = "\n".join([*lines, "", LEGEND])
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
