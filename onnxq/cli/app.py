"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxq import __version__
from onnxq.cli import (
    bench,
    calibrate,
    compare,
    doctor,
    inspect,
    passes,
    plan,
    quantize,
    recipes,
    sensitivity,
    targets,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)

# In the order of the help.
for _module in (quantize, plan, calibrate, sensitivity, bench, compare, inspect, doctor, recipes, passes, targets):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"onnxq {__version__}")
        raise typer.Exit


@app.callback()
def _onnxq(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Quantize ONNX models for onnxruntime: every decision has a reason, and results are judged as they are served."""
