"""`onnxq inspect`: what is in a model."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxq.cli.options import Json, Model

Target = Annotated[str, typer.Option(metavar="NAME", help="Where it would be served; see `onnxq targets`.")]


def command(model: Model, target: Target = "cpu", as_json: Json = False) -> None:
    """Tell what is in a model and which of its nodes could be quantized; nothing is run or written."""
    from onnxq.api import inspect
    from onnxq.cli.show_inspection import show_inspection
    from onnxq.cli.terminal import show_json, warn
    from onnxq.types.plain import plain

    found = inspect(model, target=target)
    warn(found.warnings)
    if as_json:
        show_json(plain(found))
    else:
        show_inspection(found)
