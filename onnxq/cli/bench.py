"""`onnxq bench`: models side by side as they are served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli.options import Json, Picture, Quiet, parse_numbers, parse_shape

Models = Annotated[
    list[Path],
    typer.Argument(metavar="MODEL...", help="Forms of one model; the first is the measure.", show_default=False),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="Inputs, of which the first batch is run. Without: inputs are made up."),
]
Ep = Annotated[str, typer.Option("--ep", metavar="NAME,...", help="Execution providers: cpu, cuda, tensorrt.")]
Threads = Annotated[str, typer.Option(metavar="N,...", help="Threads for one call; 0 for all cores.")]
BatchSizes = Annotated[str, typer.Option("--batch", metavar="N,...", help="Samples a call.")]
Shape = Annotated[
    list[str] | None, typer.Option(metavar="AXIS=N", help="Extent of a free axis, by its name; repeatable.")
]
Seconds = Annotated[float, typer.Option(metavar="S", min=0.0, help="Seconds of timing in each combination.")]


def command(
    models: Models,
    *,
    data: Data = None,
    ep: Ep = "cpu",
    threads: Threads = "1",
    batch: BatchSizes = "1",
    shape: Shape = None,
    seconds: Seconds = 2.0,
    picture: Picture = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run models in turns on the same inputs: latency, throughput, memory, size, loading, and output difference."""
    from onnxq import api
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.show_benchmark import show_benchmark
    from onnxq.cli.terminal import answer

    benchmark = api.benchmark(
        models,
        data=data,
        ep=[name.strip() for name in ep.split(",")],
        threads=parse_numbers(threads, "--threads", least=0),
        batch=parse_numbers(batch, "--batch", least=1),
        shape=parse_shape(shape or []),
        seconds=seconds,
        picture=picture,
        progress=terminal_progress(quiet=quiet),
    )
    answer(benchmark, lambda: show_benchmark(benchmark), as_json=as_json, quiet=quiet, picture=picture)
