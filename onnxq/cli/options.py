"""Arguments and options that several commands share, the recipe's own apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file to read.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else there.")]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory for observed tensors, such as 2GB. Without: a third of what is free."),
]
Statistics = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Ranges from this file of `onnxq calibrate`; no data is run for them."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables; warnings and errors only.")]


def parse_size(text: str | None) -> int | None:
    """Return the bytes that `2GB`, `500MiB` or `1000000` stand for; raises RecipeError for anything else."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from onnxq.errors import RecipeError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise RecipeError(f"'{text}' is no size; write it like 2GB, 500MB or 1000000") from None
