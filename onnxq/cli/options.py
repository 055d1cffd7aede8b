"""Arguments and options that several commands share, the recipe's own apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file to read.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables; warnings and errors only.")]
