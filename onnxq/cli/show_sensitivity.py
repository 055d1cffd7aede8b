"""Sensitivities as tables."""

from __future__ import annotations

from rich.filesize import decimal

from onnxq.cli.table import decibels, table
from onnxq.cli.terminal import show
from onnxq.types.sensitivity import Effect, Sensitivity, TensorEffect


def show_sensitivity(sensitivity: Sensitivity, worst: int) -> None:
    """Print the worst layers, and the worst tensors, each quantized alone."""
    units, tensors, whole = sensitivity.units, sensitivity.tensors, sensitivity.whole
    score = [] if sensitivity.metric is None else [f"{sensitivity.metric}>"]
    rows = [
        (_named(unit), ", ".join(unit.ops), *_figures(unit, sensitivity), _bytes(unit.saved)) for unit in units[:worst]
    ]
    rows.append((f"all {len(units)} together", "", *_figures(whole, sensitivity), _bytes(whole.saved)))
    shown = f", the worst {worst}" if len(units) > worst else ""
    data = f"{sensitivity.samples} samples of {sensitivity.data}"
    title = f"{len(units)} layers, each quantized alone{shown}; {data}"
    show(table(["layer", "operators", "worst output>", *score, "saves>"], rows, title=title))
    if tensors:
        shown = f", the worst {worst}" if len(tensors) > worst else ""
        cells = [(entry.tensor, entry.role, entry.scheme, *_figures(entry, sensitivity)) for entry in tensors[:worst]]
        title = f"{len(tensors)} tensors, each rounded alone{shown}"
        show("", table(["tensor", "role", "scheme", "worst output>", *score], cells, title=title))
    if sensitivity.float_metric is not None:
        show("", f"{sensitivity.metric} of the float model: {sensitivity.float_metric:.5g}")


def _named(effect: Effect) -> str:
    more = f" and {len(effect.nodes) - 1} more" if len(effect.nodes) > 1 else ""
    return f"{effect.nodes[0]}{more}"


def _figures(effect: Effect | TensorEffect, sensitivity: Sensitivity) -> tuple[str, ...]:
    if sensitivity.metric is None:
        return (decibels(effect.sqnr),)
    return decibels(effect.sqnr), "-" if effect.metric is None else f"{effect.metric:.5g}"


def _bytes(saved: int) -> str:
    return decimal(saved) if saved >= 0 else f"-{decimal(-saved)}"
