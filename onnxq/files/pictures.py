"""Benchmarks, comparisons, sensitivities and the models that a search tried, as pictures; by matplotlib (optional)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from onnxq.errors import MissingDependencyError, ModelError
from onnxq.files.save import write_bytes
from onnxq.types.benchmark import Benchmark, Comparison
from onnxq.types.searching import Searching, Tried
from onnxq.types.sensitivity import Effect, Sensitivity

T = TypeVar("T")

_KINDS = ("png", "svg", "pdf")
FLOAT, QUANTIZED = "#777777", "#0b66c2"
EXACT = 100.0  # dB at which outputs that are equal, or hold no floats, are drawn


def check_picture(picture: str | Path | None) -> Path | None:
    """Return the path of a picture, None for None, after checking that it can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed. ModelError: not a kind of picture, or no such folder.
    """
    if picture is None:
        return None
    path = Path(picture)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in _KINDS:
        raise ModelError(f"'{path}' is not a picture; name it .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ModelError(f"picture folder '{path.parent}' does not exist; create it first")
    figure_of(1, 1)
    return path


def write_picture(path: Path | None, picture_of: Callable[[T, Path], bytes], data: T) -> None:
    """Draw what was found in a file of this name, if there is one."""
    if path is not None:
        write_bytes(path, picture_of(data, path))


def benchmark_picture(benchmark: Benchmark, path: Path) -> bytes:
    """Return the picture of a benchmark: latency against error, one point a model, one panel a setting."""
    settings = list(dict.fromkeys(row.setting for row in benchmark.rows))
    figure, axes = figure_of(len(settings), 3.6)
    for panel, setting in zip(axes, settings, strict=True):
        rows = [row for row in benchmark.rows if row.setting == setting]
        first, others = rows[0], rows[1:]
        panel.axvline(first.median_ms, color=FLOAT, linestyle="--", linewidth=1)
        panel.annotate(
            Path(first.model).name,
            (first.median_ms, 1),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            xytext=(4, -12),
            fontsize=8,
            color=FLOAT,
        )
        for row in others:
            height = min(row.sqnr, EXACT) if not math.isnan(row.sqnr) else EXACT
            panel.plot([row.median_ms, row.p95_ms], [height] * 2, color=QUANTIZED, linewidth=1, alpha=0.5)
            panel.scatter([row.median_ms], [height], color=QUANTIZED, zorder=3)
            label = f"{Path(row.model).name}  {row.speedup:.2f}x"
            panel.annotate(label, (row.median_ms, height), textcoords="offset points", xytext=(6, 5), fontsize=8)
        served = "all cores" if setting.threads == 0 else f"{setting.threads} thread{'s' * (setting.threads > 1)}"
        provider = setting.provider.removesuffix("ExecutionProvider")
        panel.set_title(f"{provider}, {served}, batch {setting.batch}", fontsize=10)
        panel.set_xlabel("latency, ms (line: median to 95th percentile; dashed: the first model)")
        panel.set_ylabel("worst output against the first model, dB")
        # A busy machine has percentiles far off; they may leave the picture.
        panel.set_xlim(left=0, right=min(1.2 * max(row.p95_ms for row in rows), 2 * max(row.median_ms for row in rows)))
        panel.margins(y=0.2)
        panel.grid(alpha=0.3)
    return drawn(figure, path)


def comparison_picture(comparison: Comparison, path: Path) -> bytes:
    """Return the picture of a comparison: the values of the worst tensors in both models, counted."""
    shown = [entry for entry in comparison.tensors if entry.spread is not None]
    figure, axes = figure_of(max(len(shown), 1), 3.2)
    for panel, entry in zip(axes, shown, strict=False):
        spread = entry.spread
        assert spread is not None
        panel.stairs(spread.float_counts, spread.edges, fill=True, color=FLOAT, alpha=0.45, label="float")
        panel.stairs(spread.quantized_counts, spread.edges, color=QUANTIZED, linewidth=1.3, label="quantized")
        panel.set_yscale("symlog", linthresh=1)
        panel.set_title(f"{entry.tensor}\n{entry.sqnr_plain:.1f} dB, as served {entry.sqnr_served:.1f} dB", fontsize=9)
        panel.set_ylabel("values")
        panel.legend(fontsize=8)
    axes[len(shown) - 1 if shown else 0].set_xlabel("value")
    if not shown:
        axes[0].set_title("no tensor of the float model is found in the quantized one", fontsize=9)
    return drawn(figure, path)


def figure_of(panels: int, height: float) -> tuple[Any, Any]:
    """Return a figure of panels one above the other, `height` inches each, and the panels."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        message = "pictures need matplotlib, which is not installed: pip install 'onnxq[plot]'"
        raise MissingDependencyError(message) from None
    figure = Figure(figsize=(8, height * panels), layout="constrained")
    return figure, figure.subplots(panels, squeeze=False)[:, 0]


def drawn(figure: Any, path: Path) -> bytes:
    """Return a figure as the content of a file of this name."""
    sink = io.BytesIO()
    figure.savefig(sink, format=path.suffix.removeprefix(".").lower(), dpi=110)
    return sink.getvalue()


# Rows of a chart; there is no reading of more.
_ROWS = 40
_LEAST = -10.0
_COLORS = {"activation": "#d97706", "weight": "#0f766e"}
_LONGEST = 46
_BEYOND = "#c2410c"


def sensitivity_picture(sensitivity: Sensitivity, path: Path) -> bytes:
    """Return the picture of sensitivities: dB of the worst output for each layer and each tensor alone, worst first."""
    charts: list[tuple[str, list[tuple[str, float, str]]]] = [
        ("layers, each quantized alone", [(_named(each), each.sqnr, QUANTIZED) for each in sensitivity.units[:_ROWS]])
    ]
    if sensitivity.tensors:
        rows = [(_short(each.tensor), each.sqnr, _COLORS.get(each.role, FLOAT)) for each in sensitivity.tensors[:_ROWS]]
        charts.append(("tensors, each rounded alone", rows))
    most = max(len(rows) for _, rows in charts)
    figure, axes = figure_of(len(charts), 1.2 + 0.2 * max(most, 4))
    for panel, (title, rows) in zip(axes, charts, strict=True):
        heights = [min(max(value, _LEAST), EXACT) for _, value, _ in rows]
        places = list(range(len(rows)))
        panel.barh(places, heights, color=[color for _, _, color in rows], height=0.7)
        panel.set_yticks(places, [name for name, _, _ in rows], fontsize=7)
        panel.invert_yaxis()
        whole = sensitivity.whole.sqnr
        if math.isfinite(whole):
            panel.axvline(whole, color=FLOAT, linestyle="--", linewidth=1)
        panel.set_title(f"{title} (dashed: all together, {whole:.1f} dB)", fontsize=10)
        panel.set_xlabel("worst output against the float model, dB: the lower, the more sensitive")
        panel.grid(axis="x", alpha=0.3)
        panel.margins(y=0.01)
    if sensitivity.tensors:
        from matplotlib.patches import Patch

        axes[-1].legend(
            handles=[Patch(color=color, label=role) for role, color in _COLORS.items()], fontsize=8, loc="upper right"
        )
    return drawn(figure, path)


def search_picture(search: Searching, path: Path) -> bytes:
    """Return the picture of a search: error against time, and against size, of every model that it tried."""
    timed = [row for row in search.tried if row.speedup is not None]
    figure, axes = figure_of(2 if timed else 1, 3.8)
    sizes = [row.bytes / 1e6 for row in search.tried]
    _front(axes[0], search, list(zip(search.tried, sizes, strict=True)), search.float_bytes / 1e6, "size, MB")
    if timed:
        shares = [1 / row.speedup for row in timed if row.speedup is not None]
        _front(axes[1], search, list(zip(timed, shares, strict=True)), 1.0, "time, of the float model's")
    key = "dashed: float; blue: within the limits; ring: taken; line: none comes closer at the cost"
    axes[0].set_title(f"{len(search.tried)} models; wanted: {search.budget}\n({key})", fontsize=10)
    return drawn(figure, path)


def _front(panel: Any, search: Searching, points: Sequence[tuple[Tried, float]], whole: float, label: str) -> None:
    """Draw models by cost and error: within the budget, beyond it, the one that was taken, and those none beats."""
    rows, costs = [row for row, _ in points], [cost for _, cost in points]
    scored = search.metric is not None and all(row.metric is not None for row in rows)
    values = [row.metric if scored else min(max(row.sqnr, _LEAST), EXACT) for row in rows]
    heights = [0.0 if value is None else value for value in values]
    if scored and search.float_metric is not None:
        panel.axhline(search.float_metric, color=FLOAT, linestyle=":", linewidth=1)
    best = sorted(
        index
        for index, row in enumerate(rows)
        if not any(other.excess < row.excess and cost <= costs[index] for other, cost in zip(rows, costs, strict=True))
    )
    line = sorted(best, key=lambda index: costs[index])
    panel.plot([costs[index] for index in line], [heights[index] for index in line], color=QUANTIZED, alpha=0.4)
    for index, row in enumerate(rows):
        within = row.shortfall is None
        panel.scatter([costs[index]], [heights[index]], color=QUANTIZED if within else _BEYOND, s=22, zorder=3)
        if search.chosen is not None and row is search.tried[search.chosen]:
            panel.scatter([costs[index]], [heights[index]], facecolors="none", edgecolors="black", s=90, zorder=4)
    panel.axvline(whole, color=FLOAT, linestyle="--", linewidth=1)
    panel.set_xlabel(label)
    panel.set_ylabel(search.metric if scored else "worst output, dB")
    panel.set_xlim(left=0)
    panel.margins(y=0.15)
    panel.grid(alpha=0.3)


def _named(effect: Effect) -> str:
    more = f" +{len(effect.nodes) - 1}" if len(effect.nodes) > 1 else ""
    return f"{_short(effect.nodes[0])}{more}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"
