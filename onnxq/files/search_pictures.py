"""draw_search: sensitivities, and the models that a search met, as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxq.files.pictures import EXACT, FLOAT, QUANTIZED, drawn, figure_of
from onnxq.types.searching import Searching, Tried
from onnxq.types.sensitivity import Effect, Sensitivity

# Rows of a chart; there is no reading of more.
_ROWS = 40
_LEAST = -10.0
_COLORS = {"activation": "#d97706", "weight": "#0f766e"}
_LONGEST = 46
_BEYOND = "#c2410c"


def sensitivity_picture(found: Sensitivity, path: Path) -> bytes:
    """Return the picture of sensitivities: dB of the worst output for each layer and each tensor alone, worst first."""
    charts: list[tuple[str, list[tuple[str, float, str]]]] = [
        ("layers, each quantized alone", [(_named(each), each.sqnr, QUANTIZED) for each in found.units[:_ROWS]])
    ]
    if found.tensors:
        rows = [(_short(each.tensor), each.sqnr, _COLORS.get(each.role, FLOAT)) for each in found.tensors[:_ROWS]]
        charts.append(("tensors, each rounded alone", rows))
    most = max(len(rows) for _, rows in charts)
    figure, axes = figure_of(len(charts), 1.2 + 0.2 * max(most, 4))
    for panel, (title, rows) in zip(axes, charts, strict=True):
        heights = [min(max(value, _LEAST), EXACT) for _, value, _ in rows]
        places = list(range(len(rows)))
        panel.barh(places, heights, color=[color for _, _, color in rows], height=0.7)
        panel.set_yticks(places, [name for name, _, _ in rows], fontsize=7)
        panel.invert_yaxis()
        whole = found.whole.sqnr
        if math.isfinite(whole):
            panel.axvline(whole, color=FLOAT, linestyle="--", linewidth=1)
        panel.set_title(f"{title} (dashed: all together, {whole:.1f} dB)", fontsize=10)
        panel.set_xlabel("worst output against the float model, dB: the lower, the more sensitive")
        panel.grid(axis="x", alpha=0.3)
        panel.margins(y=0.01)
    if found.tensors:
        from matplotlib.patches import Patch

        axes[-1].legend(
            handles=[Patch(color=color, label=role) for role, color in _COLORS.items()], fontsize=8, loc="upper right"
        )
    return drawn(figure, path)


def search_picture(found: Searching, path: Path) -> bytes:
    """Return the picture of a search: error against time, and against size, of every model that it met."""
    timed = [row for row in found.tried if row.speedup is not None]
    figure, axes = figure_of(2 if timed else 1, 3.8)
    sizes = [row.bytes / 1e6 for row in found.tried]
    _front(axes[0], found, list(zip(found.tried, sizes, strict=True)), found.float_bytes / 1e6, "size, MB")
    if timed:
        shares = [1 / row.speedup for row in timed if row.speedup is not None]
        _front(axes[1], found, list(zip(timed, shares, strict=True)), 1.0, "time, of the float model's")
    key = "dashed: float; blue: within the limits; ring: taken; line: none comes closer at the cost"
    axes[0].set_title(f"{len(found.tried)} models; wanted: {found.budget}\n({key})", fontsize=10)
    return drawn(figure, path)


def _front(panel: Any, found: Searching, points: Sequence[tuple[Tried, float]], whole: float, label: str) -> None:
    """Draw models by cost and error: within the budget, beyond it, the one that was taken, and those none beats."""
    rows, costs = [row for row, _ in points], [cost for _, cost in points]
    scored = found.metric is not None and all(row.metric is not None for row in rows)
    values = [row.metric if scored else min(max(row.sqnr, _LEAST), EXACT) for row in rows]
    heights = [0.0 if value is None else value for value in values]
    if scored and found.float_metric is not None:
        panel.axhline(found.float_metric, color=FLOAT, linestyle=":", linewidth=1)
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
        if found.chosen is not None and row is found.tried[found.chosen]:
            panel.scatter([costs[index]], [heights[index]], facecolors="none", edgecolors="black", s=90, zorder=4)
    panel.axvline(whole, color=FLOAT, linestyle="--", linewidth=1)
    panel.set_xlabel(label)
    panel.set_ylabel(found.metric if scored else "worst output, dB")
    panel.set_xlim(left=0)
    panel.margins(y=0.15)
    panel.grid(alpha=0.3)


def _named(effect: Effect) -> str:
    more = f" +{len(effect.nodes) - 1}" if len(effect.nodes) > 1 else ""
    return f"{_short(effect.nodes[0])}{more}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"
