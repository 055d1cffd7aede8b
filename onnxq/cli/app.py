"""The commands, put together."""

from __future__ import annotations

import inspect as inspection
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
from onnxq.cli.recipe_options import takes_recipe

# In the order of the help.
_COMMANDS = {
    module.__name__.rpartition(".")[2]: module.command
    for module in (quantize, plan, calibrate, sensitivity, bench, compare, inspect, doctor, recipes, passes, targets)
}


def make_app(name: str | None = None) -> typer.Typer:
    """Return the program.

    Options of recipes come from the recipe, which loads pydantic; so `onnxq --help` is fast without them.

    Args:
        name: of the command that is run, which alone gets those options; None: all commands get them.
    """
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    for each, command in _COMMANDS.items():
        if "options" not in inspection.signature(command).parameters:
            app.command(each)(command)
        elif name in (None, each):
            app.command(each)(takes_recipe(command))
        else:
            app.command(each, help=command.__doc__)(lambda: None)
    app.callback()(_onnxq)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxq {__version__}")
        raise typer.Exit


def _onnxq(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Quantize ONNX models for onnxruntime: every decision has a reason, and results are judged as they are served."""
