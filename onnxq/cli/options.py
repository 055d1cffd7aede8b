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
Picture = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf; overwritten. Needs the extra `plot`."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables; warnings and errors only.")]


def parse_size(text: str | None) -> int | None:
    """Return the bytes of `2GB`, `500MiB` or `1000000`; raises RecipeError for anything else."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from onnxq.errors import RecipeError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise RecipeError(f"'{text}' is not a size; write it like 2GB, 500MB or 1000000") from None


def parse_numbers(text: str, option: str, *, least: int) -> tuple[int, ...]:
    """Return the whole numbers of `1,2,4`; raises RecipeError for anything else, and for numbers below `least`."""
    from onnxq.errors import RecipeError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= least for word in words):
        raise RecipeError(f"{option} {text}: give whole numbers of at least {least}, separated by commas")
    return tuple(dict.fromkeys(int(word) for word in words))


def parse_shape(words: list[str]) -> dict[str, int]:
    """Return what `seq=128` and `height=32,width=64` say; raises RecipeError for anything else."""
    from onnxq.errors import RecipeError

    extents = {}
    for word in (part for text in words for part in text.split(",")):
        name, equals, extent = word.partition("=")
        if not (name and equals and extent.isdecimal() and int(extent) > 0):
            raise RecipeError(f"--shape {word}: write it as AXIS=N, such as sequence=128")
        extents[name] = int(extent)
    return extents
