"""`onnxq calibrate`: run a model over data and keep what its tensors held, for any number of quantizations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli.options import Json, Memory, Model, Quiet, parse_size

_MACHINES = "More processes, more machines"

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to keep the statistics. Without: MODEL.stats.npz."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the state here while running; the same command goes on from it."),
]
Processes = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Share the work among N processes.", rich_help_panel=_MACHINES),
]
Dask = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Share the work among a Dask cluster's workers.", rich_help_panel=_MACHINES),
]


def command(
    model: Model,
    *,
    output: Output = None,
    force: Force = False,
    options: dict[str, Any],
    memory: Memory = None,
    checkpoint: Checkpoint = None,
    processes: Processes = None,
    dask: Dask = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a model over data and keep statistics of its tensors; quantize --statistics then needs no data."""
    from onnxq.api import calibrate
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.terminal import show, show_json
    from onnxq.stages.calibrate.processes import engine

    output = output or model.with_name(f"{model.name.removesuffix('.onnx')}.stats.npz")
    with engine(processes=processes, dask=dask) as executor:
        statistics = calibrate(
            model,
            output,
            **options,
            memory=parse_size(memory),
            executor=executor,
            checkpoint=checkpoint,
            force=force,
            progress=terminal_progress(quiet=quiet),
        )
    facts = {
        "output": str(output),
        "samples": statistics.samples,
        "tensors": len(statistics.tensors),
        "synthetic": statistics.synthetic,
        "fingerprint": statistics.fingerprint,
    }
    if as_json:
        show_json(facts)
    elif not quiet:
        show(f"{statistics.samples} samples, {len(statistics.tensors)} tensors -> {output}")
