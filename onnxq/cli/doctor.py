"""`onnxq doctor`: how much of a model runs on integers, what does not and why, and what could go wrong."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxq.cli.options import Json, Model

All = Annotated[bool, typer.Option("--all", help="Name every operator and every place, not only the first ones.")]


def command(model: Model, options: dict[str, Any], show_all: All = False, as_json: Json = False) -> None:
    """Show how much of a model runs on integers, what does not and why, and what could go wrong.

    For any model, quantized or not; nothing is written. With calibration data, ranges of activations are looked at too.
    """
    from onnxq import api
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.show_diagnosis import show_diagnosis
    from onnxq.cli.terminal import show_json, warn
    from onnxq.types.plain_data import plain

    diagnosis = api.doctor(model, **options, progress=terminal_progress())
    warn(diagnosis.warnings)
    if as_json:
        show_json(plain(diagnosis))
    else:
        show_diagnosis(diagnosis, everything=show_all)
