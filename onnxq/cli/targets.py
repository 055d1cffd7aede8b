"""`onnxq targets`: where models can be served, and what runs there on integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from onnxq.targets import Row, Target

Name = Annotated[
    str | None,
    typer.Argument(metavar="TARGET", help="Show what this target runs; without: list the targets.", show_default=False),
]


def command(name: Name = None, as_json: Json = False) -> None:
    """List the targets, or the operators that one of them runs as integer kernels."""
    from onnxq.cli.terminal import show, show_json
    from onnxq.targets import targets
    from onnxq.types.plain import plain

    chosen = [targets.get(name)] if name is not None else [target for _, target in targets.items()]
    if as_json:
        show_json([plain(replace(target, rows=tuple(map(_without_code, target.rows)))) for target in chosen])
    elif name is None:
        show(_overview(chosen))
    else:
        show(_overview(chosen), "", _rows(chosen[0]))


def _without_code(row: Row) -> Row:
    return replace(row, refuses=None)


def _overview(chosen: Iterable[Target]) -> Table:
    from onnxq.cli.table import table

    rows = [(target.name, target.summary, target.activations, target.weights, len(target.rows)) for target in chosen]
    return table(["target", "what it is", "activations", "weights", "kernels>"], rows)


def _rows(target: Target) -> Table:
    from onnxq.cli.table import table

    rows = [
        (
            row.op,
            row.kernel if not row.float_kernel else f"{row.kernel}, {row.float_kernel}",
            ", ".join(sorted(row.activations)),
            ", ".join(sorted(row.weights)),
            row.condition,
            row.evidence,
        )
        for row in target.rows
    ]
    return table(["operator", "runs as", "activations", "weights", "only if", "known from"], rows)
