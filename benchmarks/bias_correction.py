"""Bias correction on and off: static 8-bit models as served, with and without it.

python -m benchmarks.bias_correction [--models digits,minilm,ppocr-det] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxq
from onnxq.numerics.metrics import sqnr_db
from onnxq.runtime.session import open_session

import models
from benchmarks.measure import Failure, environment, isolated, write_section

SECTION = "bias_correction"
WAYS = ("none", "analytic", "empirical")
BATCHES = 8
HEADER = ("model", "bias correction", "dB", "metric", "s")
LEGEND = f"""\
- `onnxq quantize --no-guard --bias-correction NAME` with default settings; the first {BATCHES} calibration batches to
  quantize by, the first {BATCHES} evaluation batches to judge by. **dB**: the worst output's SQNR, as served.
  **metric**: the zoo's figure. **s**: seconds to quantize.
- *empirical* sees the errors of activations too, clipping among them, and does harm on minilm. A guess at why: there a
  few tokens are far larger than all others, and what they lose on average is not what the others lose. *analytic* looks
  at the weights' errors alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default="digits,minilm,ppocr-det")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    lines = ["## Bias correction", "", f"{where.date}, {where.processor}, one thread.", ""]
    lines += [f"| {' | '.join(HEADER)} |", f"|---|---|{'---:|' * (len(HEADER) - 2)}"]
    lines += [row for name in options.models.split(",") for row in rows(name)]
    text = "\n".join([*lines, "", LEGEND])
    print(text)
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    return 0


def rows(name: str) -> Iterator[str]:
    """Yield one model's rows."""
    for way in WAYS:
        found, cost = isolated(judged, name, way)
        if isinstance(found, Failure):
            yield f"| {name} | {way} | {found.text} | - | {cost.seconds:.0f} |"
        else:
            decibels, metric = found
            yield f"| {name} | {way} | {decibels:.1f} | {metric:.3f} | {cost.seconds:.0f} |"


def judged(name: str, way: str) -> tuple[float, float]:
    """Return the worst output's SQNR in dB and the zoo's figure."""
    zoo = models.load(name)
    made = onnxq.quantize(
        zoo.path,
        calibration=list(itertools.islice(zoo.calibration(), BATCHES)),
        check=False,
        guard=False,
        bias_correction=way,
    ).model
    original, quantized = open_session(zoo.path), open_session(made)
    pairs = [(original.run(feeds), quantized.run(feeds)) for feeds in itertools.islice(zoo.evaluation(), BATCHES)]
    worst = min(
        sqnr_db(*(np.concatenate([pair[side][output].ravel() for pair in pairs]) for side in (0, 1)))
        for output in original.outputs
    )
    assert zoo.metric is not None
    return worst, zoo.metric.compute(quantized.run)


if __name__ == "__main__":
    sys.exit(main())
