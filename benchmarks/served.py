"""Served as the graph says: every zoo model in every format, guard on, optimizer off against as served, and repairs.

python -m benchmarks.served [--models digits,magika] [--formats qdq,dynamic] [--prefer size]

A processor that is taken for another one shows what the guard repairs: on a machine without VNNI, with
ONNXQ_PROCESSOR=vnni, weights are planned that saturate there. For a target of other processors nothing is repaired.
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

from onnxq.evaluate.served import notable
from onnxq.runtime.saturation import adds_pairs
from onnxq.targets.processor import real_processor, this_processor
from onnxq.types.format import Format

import models
from benchmarks.measure import Failure, environment, isolated, write_section
from benchmarks.zoo import guarded

SECTION = "served"
FORMATS = tuple(fmt.value for fmt in Format if fmt is not Format.AUTO)
LARGE = ("smollm2",)
HEADER = ("model", "format", "verdict", "dB off", "dB served", "lost", "within", "guard", "repairs")
LEGEND = """\
- **off**, **served**: dB of the result's worst output against the float model, as the graph says and as served.
  **lost**: largest difference of the two over all outputs below 60 dB, where served is the worse. **within**: whether
  that is at most 1 dB. **guard**: seconds it took.
- **repairs**: of the guard, for `kernel-fault`: how many nodes, what was wrong, and what they are now."""
_BATCHES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one model in one format; dB of the worst output."""

    verdict: str
    plain: float
    served: float
    lost: float
    seconds: float
    repairs: tuple[str, ...]


def outcome(name: str, fmt: str, prefer: str, target: str, output: Path) -> Outcome:
    """Quantize a zoo model with the guard on; in a process of its own."""
    report = guarded(name, output, _BATCHES, format=fmt, prefer=prefer, target=target)
    assert report.guard is not None
    assert report.verification is not None
    numbers = [entry for entry in report.verification.outputs if not math.isnan(entry.sqnr_served)]
    lost = [entry.sqnr_plain - entry.sqnr_served for entry in numbers if notable(entry.sqnr_plain, entry.sqnr_served)]
    steps = [step for step in report.guard.steps if step.why == "kernel-fault"]
    return Outcome(
        verdict=report.guard.verdict,
        plain=min((entry.sqnr_plain for entry in numbers), default=math.inf),
        served=min((entry.sqnr_served for entry in numbers), default=math.inf),
        lost=max(0.0, *lost, 0.0),
        seconds=report.guard.seconds,
        repairs=tuple(f"{len(step.nodes)}{'' if step.taken else ' (in vain)'}: {step.text}" for step in steps),
    )


def row(name: str, fmt: str, prefer: str, target: str, folder: Path) -> tuple[str, ...]:
    """Return one line of the table."""
    found, _ = isolated(outcome, name, fmt, prefer, target, folder / f"{name}.{fmt}.onnx")
    if isinstance(found, Failure):
        return (name, fmt, found.text.replace("|", "/"), *["-"] * (len(HEADER) - 3))
    within = "yes" if found.lost <= 1 else "**no**"
    figures = (_db(found.plain), _db(found.served), f"{found.lost:.1f}", within, f"{found.seconds:.0f} s")
    return (name, fmt, found.verdict, *figures, "; ".join(found.repairs) or "none")


def _db(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "broken")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 all within a decibel, 1 some not, 2 usage)."""
    known = [name for name in models.names() if name not in LARGE]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default=",".join(known), help="zoo models, separated by commas")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, separated by commas")
    parser.add_argument("--prefer", default="speed", choices=("speed", "size"))
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--markdown", type=Path, help="page in which to write the table, in its own section")
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    here = this_processor()
    mistaken = adds_pairs() is not (here.target == "cpu-avx2")
    kind = f"{here.kind}, {'pairs saturate' if adds_pairs() else 'pairs are exact'}" if mistaken else here.kind
    runtime = f"onnxruntime {where.versions['onnxruntime']}"
    lines = [f"## Served as the graph says: {kind}", ""]
    taken = f"{real_processor()}, taken for {here}" if mistaken else f"{here}"
    lines.append(f"{where.date}, {taken}, {runtime}, target {options.target}, prefer {options.prefer}.")
    lines += ["", f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    missed = False
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        for name, fmt in itertools.product(options.models.split(","), options.formats.split(",")):
            cells = row(name, fmt, options.prefer, options.target, Path(folder))
            missed = missed or cells[HEADER.index("within")] != "yes"
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join([*lines, "", LEGEND])
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text, part=kind)
    else:
        print(text)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
