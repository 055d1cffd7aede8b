"""A diagnosis as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.filesize import decimal
from rich.padding import Padding
from rich.text import Text

from onnxq.cli.table import table
from onnxq.cli.terminal import show
from onnxq.types.diagnosis import Covered, Diagnosis, Hazard, State

_SHOWN = 3
_TITLES = {
    State.QUANTIZED: "on integers now",
    State.POSSIBLE: "in float, could be quantized",
    State.FLOAT: "in float",
}


def show_diagnosis(diagnosis: Diagnosis, *, everything: bool) -> None:
    """Print coverage, reasons and hazards."""
    if not diagnosis.operators:
        show("no operator holds or multiplies weights: there is nothing to quantize")
    else:
        show(f"operators that hold or multiply weights ({diagnosis.format}, target {diagnosis.target}):", "")
        show(table(["", "nodes>", "weights>", "", "operations>", ""], list(_coverage(diagnosis))))
        reasons = list(_reasons(diagnosis))
        if reasons:
            show("", table(["in float because", "nodes>", "weights>", "operations>", "what to do"], reasons))
        if everything:
            rows = [
                (entry.node, entry.op, _TITLES[entry.state], "" if entry.reason is None else entry.reason.text)
                for entry in diagnosis.operators
            ]
            show("", table(["node", "operator", "", "why"], rows))
    show("")
    for hazard in diagnosis.hazards:
        _show_hazard(hazard, everything=everything)
    if not diagnosis.hazards:
        show("no hazards found")
    if not diagnosis.observed:
        show("", Text("ranges of activations were not looked at: give --calibration", style="dim"))


def _coverage(diagnosis: Diagnosis) -> list[tuple[str, int, str, str, str, str]]:
    weights = sum(entry.weight_bytes for entry in diagnosis.operators)
    macs = sum(entry.macs for entry in diagnosis.operators)
    rows = []
    for state, title in _TITLES.items():
        part = [entry for entry in diagnosis.operators if entry.state is state]
        held, done = sum(entry.weight_bytes for entry in part), sum(entry.macs for entry in part)
        rows.append((title, len(part), decimal(held), _share(held, weights), _count(done), _share(done, macs)))
    return rows


def _reasons(diagnosis: Diagnosis) -> list[tuple[str, int, str, str, str]]:
    grouped: dict[str, list[Covered]] = {}
    for entry in diagnosis.operators:
        if entry.reason is not None:
            grouped.setdefault(entry.reason.code, []).append(entry)
    return [
        (
            code,
            len(part),
            decimal(sum(entry.weight_bytes for entry in part)),
            _count(sum(entry.macs for entry in part)),
            diagnosis.advice[code],
        )
        for code, part in sorted(grouped.items(), key=lambda pair: -sum(entry.weight_bytes for entry in pair[1]))
    ]


def _show_hazard(hazard: Hazard, *, everything: bool) -> None:
    show(Text.assemble((hazard.code, "yellow"), f"  {hazard.text}"))
    lines = [Text(f"-> {hazard.advice}")]
    if hazard.where:
        lines.append(Text(_places(hazard.where, everything=everything), style="dim"))
    for line in lines:
        show(Padding(line, (0, 0, 0, 2)))


def _places(names: Sequence[str], *, everything: bool) -> str:
    named = names if everything else names[:_SHOWN]
    more = f" and {len(names) - len(named)} more" if len(names) > len(named) else ""
    return ", ".join(named) + more


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _count(operations: int) -> str:
    """Return a number of multiply-accumulates in short: `1.2 M`."""
    value, unit = float(operations), ""
    for larger in ("k", "M", "G", "T"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}".rstrip()
