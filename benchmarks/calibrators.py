"""Which calibrator suits which model: every calibrator on every model of the zoo, from the same statistics, as served.

    python -m benchmarks.calibrators [--models digits,magika] [--markdown docs/calibrators.md]

Each model is observed once; all calibrators read that state.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxq
from rich.console import Console
from rich.table import Table

import models
from benchmarks.measure import Judgement, environment, judge, write_section
from benchmarks.versus_onnxruntime import MAIN_OUTPUT

SECTION = "calibrators"
CALIBRATORS = (
    "minmax",
    "moving-average",
    "percentile:percentile=99.99",
    "percentile:percentile=99.9999",
    "entropy",
    "mse",
)


def measure(name: str, folder: Path) -> dict[str, Judgement]:
    """Quantize one model of the zoo with every calibrator and judge each result on its evaluation data."""
    zoo = models.load(name)
    statistics = onnxq.calibrate(zoo.path, calibration=zoo.calibration)
    found = {}
    for calibrator in CALIBRATORS:
        path = folder / f"{name}.onnx"
        onnxq.quantize(zoo.path, path, statistics=statistics, calibrator=calibrator, check=False, force=True)
        found[calibrator] = judge(name, path)
    return found


def cell(name: str, judgement: Judgement) -> str:
    """dB of the model's main output as served, and the metric where there is one."""
    wanted = MAIN_OUTPUT.get(name, judgement.outputs[0].name)
    decibels = next(output.served for output in judgement.outputs if output.name == wanted)
    return f"{decibels:.1f}" + ("" if judgement.metric is None else f" / {judgement.metric:.3f}")


def rows(results: dict[str, dict[str, Judgement]]) -> list[list[str]]:
    """One row a model, one column a calibrator."""
    return [[name, *(cell(name, found[calibrator]) for calibrator in CALIBRATORS)] for name, found in results.items()]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, with where it comes from."""
    where = environment(("onnxq", "onnxruntime"))
    lines = [
        f"{where.date}, {where.processor} ({', '.join(where.features)}), onnxruntime {where.versions['onnxruntime']}. "
        "SQNR in dB of the main output as served / the model's metric, format qdq.",
        "",
        "| model | " + " | ".join(CALIBRATORS) + " |",
        "|---" * (1 + len(CALIBRATORS)) + "|",
        *("| " + " | ".join(row) + " |" for row in table),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(models.names()))
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args(arguments)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models.split(","):
            results[name] = measure(name, Path(folder))
            print(name, file=sys.stderr)
    table = Table("model", *CALIBRATORS)
    for row in rows(results):
        table.add_row(*row)
    Console().print(table)
    if chosen.markdown is not None:
        write_section(chosen.markdown, SECTION, markdown(rows(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
