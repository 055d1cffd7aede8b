"""`onnxq sensitivity`: what each layer, and each tensor, does alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxq.cli.options import Json, Model, Picture, Quiet, Statistics

Tensors = Annotated[
    bool, typer.Option("--tensors/--no-tensors", help="Look at each activation and each weight alone, too.")
]
Judged = Annotated[
    int, typer.Option(metavar="N", min=1, help="Compare outputs on N samples of the evaluation data at most.")
]
Worst = Annotated[int, typer.Option(metavar="N", min=1, help="Show this many layers and tensors, the worst.")]


def command(
    model: Model,
    *,
    options: dict[str, Any],
    statistics: Statistics = None,
    tensors: Tensors = True,
    judged: Judged = 32,
    worst: Worst = 20,
    picture: Picture = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what each layer does to the outputs when it alone is quantized, as served, and each tensor; worst first."""
    from onnxq import api
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.show_sensitivity import show_sensitivity
    from onnxq.cli.terminal import answer

    sensitivity = api.sensitivity(
        model,
        **options,
        statistics=statistics,
        tensors=tensors,
        judged=judged,
        picture=picture,
        progress=terminal_progress(quiet=quiet),
    )
    answer(sensitivity, lambda: show_sensitivity(sensitivity, worst), as_json=as_json, quiet=quiet, picture=picture)
