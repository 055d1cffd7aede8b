"""Every format with its main options on four models, beside onnxruntime's own quantizers, under one ruler.

python -m benchmarks.formats [--models minilm] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import models
from benchmarks.format_tools import contestants
from benchmarks.measure import Failure, Judgement, Speed, environment, isolated, judge, race, write_section

SECTION = "formats"
MODELS = ("digits", "ppocr-rec", "minilm", "magika")
MAIN_OUTPUT = {"minilm": "sentence_embedding"}

HEADER = ("by", "", "dB off", "dB served", "worst", "metric", "size", "speed")
LEGEND = """\
- **dB off / served**: SQNR of the model's main output against the float model's, with onnxruntime's optimizer off and
  as served; **worst**: the lowest of all outputs, as served. **metric**: the zoo's figure of merit, as served.
- **size**: quantized file / float file. **speed**: float time / quantized time, one thread, all models of a table
  interleaved in one process, median of pairwise ratios; over 1 is faster than float.
- *onnxq*: `onnxq.quantize(model, output, calibration=data, ...)`; *weight-only* is 4 bits in blocks of 32 of products
  and embeddings; *products*: without the embeddings, as MatMulNBitsQuantizer does it.
- *onnxruntime*: `quantize_static` with uint8 activations and int8 weights per channel; `quantize_dynamic`;
  `MatMulNBitsQuantizer` with blocks of 32 and accuracy_level 4 (hqq needs torch); `convert_float_to_float16`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What one contestant made of a model; `speed` is None where that does not run."""

    by: tuple[str, str]
    judgement: Judgement | Failure
    speed: Speed | None


def compare(name: str, folder: Path) -> Iterator[Entry]:
    """Let every contestant quantize one model, judge each result, and time those that run."""
    judged: dict[tuple[str, str], Judgement | Failure] = {}
    paths: dict[tuple[str, str], Path] = {}
    for index, (by, make) in enumerate(contestants(name).items()):
        path = folder / f"{name}.{index}.onnx"
        made, cost = isolated(make, name, path)
        judged[by] = made if made is not None else isolated(judge, name, path)[0]
        print(f"{name}: {', '.join(by)}: {cost.seconds:.0f} s", file=sys.stderr, flush=True)
        if isinstance(judged[by], Judgement):
            paths[by] = path
    times, _ = isolated(race, name, list(paths.values()))
    speeds = {} if isinstance(times, Failure) else dict(zip(paths, times, strict=True))
    return (Entry(by=by, judgement=found, speed=speeds.get(by)) for by, found in judged.items())


def row(name: str, entry: Entry, whole: int) -> tuple[str, ...]:
    """Return the cells of one contestant; `whole`: bytes of the float model."""
    found = entry.judgement
    if isinstance(found, Failure):
        return (*entry.by, found.text.replace("|", "/")[:100], *["-"] * 5)
    main = next((one for one in found.outputs if one.name == MAIN_OUTPUT.get(name)), found.outputs[0])
    return (
        *entry.by,
        f"{main.plain:.2f}",
        f"{main.served:.2f}",
        f"{min(one.served for one in found.outputs):.2f}",
        "-" if found.metric is None else f"{found.metric:.3f}",
        f"{found.size / whole:.3f}",
        "-" if entry.speed is None else f"{entry.speed.ratio:.2f}x",
    )


def table(name: str) -> str:
    """Return the table of one model."""
    zoo = models.load(name)
    whole, where = zoo.path.stat().st_size, environment(("onnxq", "onnxruntime"))
    before, _ = isolated(judge, name, zoo.path)
    metric = ""
    if zoo.metric is not None and isinstance(before, Judgement):
        metric = f"; {zoo.metric.name} in float: {before.metric:.3f}"
    versions = ", ".join(f"{package} {version}" for package, version in where.versions.items())
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        rows = [row(name, entry, whole) for entry in compare(name, Path(folder))]
    return "\n".join(
        [
            f"### Formats: {name}",
            "",
            f"{where.date}, {where.processor} ({', '.join(where.features)}), one thread, {versions}. "
            f"{whole / 1e6:.1f} MB{metric}.",
            "",
            f"| {' | '.join(HEADER)} |",
            f"|{'---|' * 2}{'---:|' * (len(HEADER) - 2)}",
            *(f"| {' | '.join(cells)} |" for cells in rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 done, 2 usage)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="names of zoo models, separated by commas")
    parser.add_argument("--markdown", type=Path, help="page in which to write the tables, each in its own section")
    options = parser.parse_args(arguments)
    parts = {"": f"## Formats\n\n{LEGEND}"}
    for name in options.models.split(","):
        parts[name] = table(name)
        for part, text in parts.items():
            if options.markdown is not None:
                write_section(options.markdown, SECTION, text, part=part)
            else:
                print(text)
        parts = {}
    return 0


if __name__ == "__main__":
    sys.exit(main())
