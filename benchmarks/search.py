"""The search for a budget beside the guard alone: the fastest and the smallest model within the same limit.

python -m benchmarks.search [--models digits,ppocr-rec] [--prefer speed,size] [--tries 24] [--markdown PAGE]
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxq
from onnxq.errors import OnnxqError
from onnxq.types.report import Report

import models
from benchmarks.measure import environment, write_section
from models import Feeds, Run

SECTION = "search"
HEADER = ("model", "within", "prefer", "by", "speed", "size", "worst output", "figure", "of float's", "layers", "s")
LEGEND = """\
- **by**: *guard*: `onnxq quantize` with that limit, `--format qdq` for speed and `--recipe int4` for size, the worst
  layers back in float; *search*: `--search auto` as well. **speed**: float time / quantized time at one thread, by the
  guard's race. **size**: float bytes / quantized bytes. **layers**: how many go each way. **s**: for all of it,
  calibration, search and guard.
- **figure**: what the limit is about, of the result; the search saw the same evaluation data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A zoo model and what it may lose."""

    name: str
    limit: dict[str, Any]
    batches: int | None = None


def digits(run: Run) -> float:
    """Accuracy of the digits."""
    return _figure("digits", run)


def ppocr_rec(run: Run) -> float:
    """Share of lines read without any mistake."""
    return _figure("ppocr-rec", run)


def minilm(run: Run) -> float:
    """Topic accuracy of the sentence encoder."""
    return _figure("minilm", run)


CASES = (
    Case(name="digits", limit={"metric": "benchmarks.search:digits", "max_drop": "0.5%"}),
    Case(name="digits", limit={"min_sqnr": 45.0}),
    Case(name="ppocr-rec", limit={"metric": "benchmarks.search:ppocr_rec", "max_drop": 0.01}),
    Case(name="minilm", limit={"min_sqnr": 20.0}),
    Case(name="novel", limit={"max_ppl_increase": "2%"}, batches=2),
    Case(name="smollm2", limit={"max_ppl_increase": "3%"}, batches=4),
)
BASES: dict[str, dict[str, Any]] = {"speed": {"format": "qdq"}, "size": {"recipe": "int4"}}


class Notes:
    """A progress that prints what is noted."""

    def start(self, total: int | None, description: str) -> None:
        """Tell what begins."""
        print(f"  {description}: {total}", file=sys.stderr, flush=True)

    def advance(self, n: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Print a line."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Say nothing."""


def rows(case: Case, prefer: str, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row for the guard alone, and one for the search, as the options say."""
    zoo = models.load(case.name)

    def first(data: Callable[[], Iterator[Feeds]]) -> Callable[[], Iterator[Feeds]]:
        return lambda: itertools.islice(data(), case.batches)

    for who in options.by.split(","):
        search = tuple(options.ways.split(";")) if who == "search" else ()
        print(f"{case.name} {case.limit} {prefer} {who}", file=sys.stderr, flush=True)
        output = folder / f"{case.name}-{prefer}-{who}.onnx"
        head = (case.name, _limit(case), prefer, who)
        try:
            report = onnxq.quantize(
                zoo.path,
                output,
                calibration=zoo.calibration,
                evaluation=first(zoo.evaluation),
                prefer=prefer,
                search=search,
                tries=options.tries,
                threads=1,
                force=True,
                picture=output.with_suffix(".png") if search else None,
                progress=Notes(),
                **BASES[prefer],
                **case.limit,
            )
        except OnnxqError as error:
            yield (*head, str(error).replace("|", "/"), *["-"] * (len(HEADER) - 5))
            continue
        yield (*head, *_figures(report))


def _figures(report: Report) -> tuple[str, ...]:
    assert report.guard is not None
    assert report.verification is not None
    metric, race = report.verification.metric, next(iter(report.guard.races), None)
    worst = min((each.sqnr_served for each in report.verification.outputs), default=math.inf)
    layers = "-"
    if report.search is not None and report.search.chosen is not None:
        ways = report.search.tried[report.search.chosen].ways
        counts = {way: ways.count(way) for way in sorted(set(ways))}
        layers = ", ".join(f"{count} {'f' if way < 0 else report.search.ways[way]}" for way, count in counts.items())
    return (
        "-" if race is None else f"{race.speedup:.2f}x ±{race.noise:.0%}",
        f"{report.float_bytes / report.quantized_bytes:.2f}x",
        f"{worst:.1f} dB",
        "-" if metric is None else f"{metric.quantized_value:.5g}",
        "-" if metric is None else f"{metric.float_value:.5g}",
        layers,
        f"{sum(report.seconds.values()):.0f}",
    )


def _limit(case: Case) -> str:
    return ", ".join(f"{key} {value}" for key, value in case.limit.items() if key != "metric")


def _figure(name: str, run: Run) -> float:
    metric = models.load(name).metric
    assert metric is not None
    return metric.compute(run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (0 done, 2 usage)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default="digits,ppocr-rec,minilm,novel", help="zoo models, separated by commas")
    parser.add_argument("--prefer", default="speed,size", help="what to look for")
    parser.add_argument("--by", default="guard,search", help="which of the two")
    parser.add_argument("--ways", default="auto", help="ways of the search, separated by semicolons")
    parser.add_argument("--tries", type=int, default=24, help="models that a search may make")
    parser.add_argument("--folder", type=Path, help="where to keep models, reports and pictures")
    parser.add_argument("--markdown", type=Path, help="page in which to write the table, a part for each model")
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    for name in options.models.split(","):
        lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * 4}{'---:|' * 5}---|---:|"]
        with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as temporary:
            folder = options.folder or Path(temporary)
            for case in (case for case in CASES if case.name == name):
                for prefer in options.prefer.split(","):
                    for row in rows(case, prefer, options, folder):
                        lines.append(f"| {' | '.join(row)} |")
                        print(lines[-1], file=sys.stderr, flush=True)
        title = f"## Search: {name}\n\n{where.date}, {where.processor} ({', '.join(where.features)})."
        text = "\n".join([title, "", *lines, "", LEGEND])
        print(text, flush=True)
        if options.markdown is not None:
            write_section(options.markdown, SECTION, text, part=name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
