"""`onnxq targets`: where models can be served, and what runs there in low precision."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from onnxq.targets import Row, Target

Name = Annotated[
    str | None,
    typer.Argument(metavar="TARGET", help="Show what this target runs; without: list the targets.", show_default=False),
]
Probe = Annotated[
    bool,
    typer.Option(
        "--probe",
        help="Prove the rows of TARGET (cpu) again on the installed onnxruntime, and try its known faults; exit code 1 "
        "if a row changed.",
    ),
]


Measure = Annotated[
    bool,
    typer.Option("--measure", help="Time the kernels of this machine and keep the times; plans then use them."),
]


def command(name: Name = None, probe: Probe = False, measure: Measure = False, as_json: Json = False) -> None:
    """List the targets, or the operators that one of them runs in low precision, and how that is known."""
    if probe:
        _prove(name or "cpu", as_json=as_json)
        return
    if measure:
        _measure(name or "cpu", as_json=as_json)
        return
    from onnxq.cli.terminal import show, show_json
    from onnxq.targets import targets

    chosen = [targets.get(name)] if name is not None else [target for _, target in targets.items()]
    if as_json:
        show_json([_plain(target) for target in chosen])
    elif name is None:
        show(_overview(chosen))
    else:
        show(_overview(chosen), "", _defaults(chosen[0]), "", _rows(chosen[0]))


def _measure(name: str, *, as_json: bool) -> None:
    """Time the kernels of this machine, keep the times, and print them."""
    from onnxq.cli.table import table
    from onnxq.cli.terminal import complain, show, show_json
    from onnxq.files.costs import save_costs
    from onnxq.proofs.measure import measure
    from onnxq.types.plain_data import plain

    costs = measure(name)
    path = save_costs(costs)
    complain(f"{costs.costs.source}; kept in '{path}', and used by plans for target {costs.target}", title="measured")
    if as_json:
        show_json(plain(costs))
        return
    forms = list(dict.fromkeys(entry.form for entry in costs.kernels))
    times = {(entry.op, entry.shape, entry.form): entry.microseconds for entry in costs.kernels}
    rows = [
        (op, shape, *(f"{times[op, shape, form]:g}" if (op, shape, form) in times else "" for form in forms))
        for op, shape in dict.fromkeys((entry.op, entry.shape) for entry in costs.kernels)
    ]
    show(table(["operator", "shape", *(f"{form}, us>" for form in forms)], rows))


def _prove(name: str, *, as_json: bool) -> None:
    """Print what became of a target's rows; leaves with code 1 if one does not hold."""
    from onnxq.cli.table import table
    from onnxq.cli.terminal import complain, show, show_json
    from onnxq.proofs.prove import reprove
    from onnxq.types.plain_data import plain

    proof = reprove(name)
    if as_json:
        show_json(plain(proof))
    else:
        complain(f"{len(proof.results)} claims of target {name}: {proof.how}", title="probe")
        rows = [
            (entry.op, entry.form, entry.activations or "", entry.weights or "", entry.expected, entry.found)
            for entry in proof.changed
        ]
        if rows:
            show(table(["operator", "format", "activations", "weights", "the row says", "found"], rows))
        elif proof.results:
            show("all hold")
        avoided = [entry for entry in proof.results if entry.faults and entry.expected != entry.found]
        if avoided:
            names = ", ".join(sorted({name for entry in avoided for name in entry.faults}))
            show(f"{len(avoided)} of them only where plans go around faults: {names}")
        if proof.faults:
            faults = [
                (entry.fault, "present" if entry.present else "not seen", entry.summary) for entry in proof.faults
            ]
            show("", table(["fault of onnxruntime", "here", "what it is"], faults))
    if proof.changed:
        sys.exit(1)


def _plain(target: Target) -> dict[str, Any]:
    from onnxq.types.plain_data import plain

    fields = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
    del fields["pair_limit"]  # a function: rows say which kernels add pairs
    return plain(fields | {"rows": [_row(row) for row in target.rows]})  # type: ignore[no-any-return]


def _row(row: Row) -> dict[str, Any]:
    """Return what can be written down of a row: not its functions, whose meaning stands in its texts."""
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    kinds = {name: _kinds(fields[name]) for name in ("granularities", "activation_granularities")}
    return {name: value for name, value in (fields | kinds).items() if not callable(value)}


def _kinds(granularities: Iterable[type]) -> list[str]:
    fields = (field for kind in granularities for field in dataclasses.fields(kind))
    return [str(field.default) for field in fields if field.name == "kind"]


def _overview(chosen: Iterable[Target]) -> Table:
    from onnxq.cli.table import table

    rows = [
        (target.name, target.summary, ", ".join(target.defaults), len(target.rows), target.timing.source)
        for target in chosen
    ]
    return table(["target", "what it is", "formats", "rows>", "times are"], rows)


def _defaults(target: Target) -> Table:
    from onnxq.cli.table import table

    rows = [(fmt, default.activations, default.weights) for fmt, default in target.defaults.items()]
    return table(["format", "activations by default", "weights by default"], rows)


def _rows(target: Target) -> Table:
    from onnxq.cli.table import table

    rows = [
        (
            row.op,
            row.kernel if row.float_kernel in ("", row.kernel) else f"{row.kernel}, {row.float_kernel}",
            ", ".join(sorted(row.formats)),
            ", ".join(sorted(row.activations)),
            ", ".join(sorted(row.weights)),
            "; ".join(filter(None, (row.condition, row.slower, row.hazard))),
            row.evidence,
        )
        for row in target.rows
    ]
    return table(["operator", "runs as", "formats", "activations", "weights", "note", "known from"], rows)
