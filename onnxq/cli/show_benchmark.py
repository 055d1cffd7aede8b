"""Benchmarks and comparisons as tables."""

from __future__ import annotations

import math
from pathlib import Path

from rich.filesize import decimal

from onnxq.cli.table import decibels, table, threads
from onnxq.cli.terminal import show
from onnxq.types.benchmark import Benchmark, Comparison


def show_benchmark(benchmark: Benchmark) -> None:
    """Print one table for each setting; ratios are to the first model, over 1 is better."""
    for setting in dict.fromkeys(row.setting for row in benchmark.rows):
        rows = [row for row in benchmark.rows if row.setting == setting]
        first = rows[0]
        title = f"{setting.provider}, {threads(setting.threads)}, batch {setting.batch}"
        columns = ["model", "median>", "p95>", "speed>", "samples/s>", "memory>", "size>", "load>", "error>"]
        cells = [
            (
                Path(row.model).name,
                f"{row.median_ms:.3g} ms",
                f"{row.p95_ms:.3g} ms",
                f"{row.speedup:.2f}x",
                f"{row.throughput:.4g}",
                "-" if row.memory_bytes is None else decimal(row.memory_bytes),
                f"{decimal(row.file_bytes)} ({first.file_bytes / row.file_bytes:.2f}x)",
                f"{row.load_seconds:.2g} s",
                decibels(row.sqnr),
            )
            for row in rows
        ]
        show(table(columns, cells, title=title), "")
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in benchmark.shapes.items())
    noise = max(row.noise for row in benchmark.rows)
    show(f"run on {benchmark.data}: {inputs}", f"differences in time below {max(noise, 0.01):.0%} may be chance")


def show_comparison(comparison: Comparison, worst: int) -> None:
    """Print the error of every output, and the worst tensors."""
    outputs = [
        (
            entry.name,
            "no values" if entry.is_empty else decibels(entry.sqnr_served),
            "no values" if entry.is_empty else decibels(entry.sqnr_plain),
            "-" if entry.is_empty or math.isnan(entry.max_abs_served) else f"{entry.max_abs_served:.3g}",
            "-" if entry.agreement_served is None else f"{entry.agreement_served:.2%}",
        )
        for entry in comparison.outputs
    ]
    columns = ["output", "as served>", "optimizer off>", "max |error|>", "agreement>"]
    show(table(columns, outputs, title=f"Outputs, {comparison.samples} samples of {comparison.data}"), "")
    tensors = [
        (entry.tensor, decibels(entry.sqnr_plain), decibels(entry.sqnr_served), f"{entry.max_abs:.3g}")
        for entry in comparison.tensors[:worst]
    ]
    title = f"Worst of {len(comparison.tensors)} matching tensors"
    show(table(["tensor", "optimizer off>", "as served>", "max |error|>"], tensors, title=title))
    if comparison.unmatched:
        show("", f"{len(comparison.unmatched)} tensors of the float model have no counterpart")
