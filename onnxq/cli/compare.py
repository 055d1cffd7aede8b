"""`onnxq compare`: where a quantized model differs from the float model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli.options import Json, Picture, Quiet

Float = Annotated[Path, typer.Argument(metavar="FLOAT", help="The model.", show_default=False)]
Quantized = Annotated[
    Path, typer.Argument(metavar="QUANT", help="What was made of it, by whatever tool.", show_default=False)
]
Data = Annotated[str | None, typer.Option(metavar="DATA", help="Inputs to run both on. Without: inputs are made up.")]
Samples = Annotated[int, typer.Option(metavar="N", min=1, help="Run no more than N samples.")]
Threads = Annotated[int, typer.Option(metavar="N", min=0, help="Threads, 0 for all cores.")]
Worst = Annotated[int, typer.Option(metavar="N", min=1, help="Show this many tensors, and draw them.")]


def command(
    model: Float,
    quantized: Quantized,
    *,
    data: Data = None,
    samples: Samples = 32,
    threads: Threads = 1,
    worst: Worst = 4,
    picture: Picture = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the error of every output and matching tensor, worst first, optimizer off and as served."""
    from onnxq import api
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.show_benchmark import show_comparison
    from onnxq.cli.terminal import answer

    comparison = api.compare(
        model,
        quantized,
        data=data,
        samples=samples,
        threads=threads,
        worst=worst,
        picture=picture,
        progress=terminal_progress(quiet=quiet),
    )
    answer(comparison, lambda: show_comparison(comparison, worst), as_json=as_json, quiet=quiet, picture=picture)
