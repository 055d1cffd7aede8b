"""Sensitivities as tables."""

from __future__ import annotations

import math

from rich.filesize import decimal

from onnxq.cli.table import table
from onnxq.cli.terminal import show
from onnxq.types.sensitivity import Effect, Sensitivity, TensorEffect


def show_sensitivity(found: Sensitivity, worst: int) -> None:
    """Print the worst layers, and the worst tensors, each quantized alone."""
    score = [] if found.metric is None else [f"{found.metric}>"]
    shown = f", the worst {worst}" if len(found.units) > worst else ""
    rows = [(_named(each), ", ".join(each.ops), *_figures(each, found), _bytes(each.saved)) for each in found.units]
    whole = found.whole
    every = (f"all {len(found.units)} together", "", *_figures(whole, found), _bytes(whole.saved))
    columns = ["layer", "operators", "worst output>", *score, "saves>"]
    title = f"{len(found.units)} layers, each quantized alone{shown}; {found.samples} samples of {found.data}"
    show(table(columns, [*rows[:worst], every], title=title))
    if found.tensors:
        shown = f", the worst {worst}" if len(found.tensors) > worst else ""
        cells = [(each.tensor, each.role, each.scheme, *_figures(each, found)) for each in found.tensors[:worst]]
        title = f"{len(found.tensors)} tensors, each rounded alone{shown}"
        show("", table(["tensor", "role", "scheme", "worst output>", *score], cells, title=title))
    if found.float_metric is not None:
        show("", f"{found.metric} of the float model: {found.float_metric:.5g}")


def _named(effect: Effect) -> str:
    more = f" and {len(effect.nodes) - 1} more" if len(effect.nodes) > 1 else ""
    return f"{effect.nodes[0]}{more}"


def _figures(effect: Effect | TensorEffect, found: Sensitivity) -> tuple[str, ...]:
    if found.metric is None:
        return (_db(effect.sqnr),)
    return _db(effect.sqnr), "-" if effect.metric is None else f"{effect.metric:.5g}"


def _bytes(saved: int) -> str:
    return decimal(saved) if saved >= 0 else f"-{decimal(-saved)}"


def _db(value: float) -> str:
    if math.isinf(value):
        return "exact" if value > 0 else "broken"
    return f"{value:.1f} dB"
