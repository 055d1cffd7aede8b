"""Benchmarks and comparisons as tables."""

from __future__ import annotations

import math
from pathlib import Path

from rich.filesize import decimal

from onnxq.cli.table import table
from onnxq.cli.terminal import show
from onnxq.types.benchmark import Benchmark, Comparison


def show_benchmark(found: Benchmark) -> None:
    """Print one table for each setting; ratios are to the first model, over 1 is better."""
    for setting in dict.fromkeys(row.setting for row in found.rows):
        rows = [row for row in found.rows if row.setting == setting]
        first = rows[0]
        threads = "all cores" if setting.threads == 0 else f"{setting.threads} thread{'s' * (setting.threads > 1)}"
        title = f"{setting.provider}, {threads}, batch {setting.batch}"
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
                _db(row.sqnr),
            )
            for row in rows
        ]
        show(table(columns, cells, title=title), "")
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in found.shapes.items())
    noise = max(row.noise for row in found.rows)
    show(f"run on {found.data}: {inputs}", f"differences in time below {max(noise, 0.01):.0%} may be chance")


def show_comparison(found: Comparison, worst: int) -> None:
    """Print the error of every output, and the worst tensors."""
    outputs = [
        (
            entry.name,
            "no values" if entry.is_empty else _db(entry.sqnr_served),
            "no values" if entry.is_empty else _db(entry.sqnr_plain),
            "-" if entry.is_empty or math.isnan(entry.max_abs_served) else f"{entry.max_abs_served:.3g}",
            "-" if entry.agreement_served is None else f"{entry.agreement_served:.2%}",
        )
        for entry in found.outputs
    ]
    columns = ["output", "as served>", "optimizer off>", "max |error|>", "agreement>"]
    show(table(columns, outputs, title=f"Outputs, {found.samples} samples of {found.data}"), "")
    tensors = [
        (entry.tensor, _db(entry.sqnr_plain), _db(entry.sqnr_served), f"{entry.max_abs:.3g}")
        for entry in found.tensors[:worst]
    ]
    title = f"Worst of {len(found.tensors)} matching tensors"
    show(table(["tensor", "optimizer off>", "as served>", "max |error|>"], tensors, title=title))
    if found.unmatched:
        show("", f"{len(found.unmatched)} tensors of the float model have no counterpart")


def _db(value: float) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "exact" if value > 0 else "broken"
    return f"{value:.1f} dB"
