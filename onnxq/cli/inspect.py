"""`onnxq inspect`: what is in a model."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxq.cli.options import Json, Model

Target = Annotated[str, typer.Option(metavar="NAME", help="Where it would be served; see `onnxq targets`.")]


def command(model: Model, target: Target = "cpu", as_json: Json = False) -> None:
    """Show what is in a model and which of its nodes could be quantized; nothing is run or written."""
    from onnxq import api
    from onnxq.cli.show_inspection import show_inspection
    from onnxq.cli.terminal import show_json, warn
    from onnxq.types.plain_data import plain

    inspection = api.inspect(model, target=target)
    warn(inspection.warnings)
    if as_json:
        show_json(plain(inspection))
    else:
        show_inspection(inspection)
