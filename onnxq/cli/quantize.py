"""`onnxq quantize`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.options import Json, Memory, Model, Quiet, Statistics, parse_size
from onnxq.cli.recipe_options import JUDGED

if TYPE_CHECKING:
    from onnxq.types.report import Report

_TRACING = "For finding faults"

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write; the report goes beside it. Without: MODEL.int8.onnx."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="Write the model also where nothing in it can be quantized.")
]
DumpRecipe = Annotated[
    bool, typer.Option("--dump-recipe", help="Print the complete recipe as YAML and stop; --recipe reads it back.")
]
NoCheck = Annotated[
    bool,
    typer.Option("--no-check", help="Do not run and compare the models.", rich_help_panel=JUDGED),
]
VerifyEach = Annotated[
    bool,
    typer.Option("--verify-each", help="Check the model and its outputs after every pass.", rich_help_panel=_TRACING),
]
DumpAfter = Annotated[
    str | None,
    typer.Option(
        metavar="PASS",
        help="Write the model as it is after this pass, as MODEL.after-PASS.onnx beside the output.",
        rich_help_panel=_TRACING,
    ),
]

Front = Annotated[
    Path | None,
    typer.Option(
        "--picture",
        metavar="FILE",
        help="Draw every model that the search tried: .png, .svg or .pdf; overwritten. Needs the extra `plot`.",
        rich_help_panel=JUDGED,
    ),
]
ReproducerDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where to write what repeats the failure of a pass.", rich_help_panel=_TRACING),
]


def command(
    model: Model,
    *,
    output: Output = None,
    force: Force = False,
    allow_empty: AllowEmpty = False,
    options: dict[str, Any],
    statistics: Statistics = None,
    memory: Memory = None,
    no_check: NoCheck = False,
    dump_recipe: DumpRecipe = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verify_each: VerifyEach = False,
    dump_after: DumpAfter = None,
    reproducer_dir: ReproducerDir = None,
    picture: Front = None,
) -> None:
    """Quantize a model, compare it with the original as it will be served, and write it with a report."""
    from onnxq.api import quantize
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.terminal import complain, show_text
    from onnxq.errors import VerificationError
    from onnxq.files.recipe import dump_recipe as recipe_text
    from onnxq.files.recipe import make_recipe
    from onnxq.tuning.search.checkpoint import checkpoint_path

    if dump_recipe:
        show_text(recipe_text(make_recipe(**options)))
        return
    stem = model.name.removesuffix(".onnx")
    output = output or model.with_name(f"{stem}.int8.onnx")
    try:
        report = quantize(
            model,
            output,
            **options,
            statistics=statistics,
            memory=parse_size(memory),
            force=force,
            allow_empty=allow_empty,
            check=not no_check,
            verify_each=verify_each,
            dump_after=None
            if dump_after is None
            else (dump_after, output.with_name(f"{stem}.after-{dump_after}.onnx")),
            reproducer_dir=reproducer_dir,
            picture=picture,
            progress=terminal_progress(quiet=quiet),
        )
    except KeyboardInterrupt:
        if checkpoint_path(output).is_file():
            complain("what was measured is kept: the same command goes on from there", title="help")
        raise
    except VerificationError as error:
        if error.report is not None:
            _show(error.report, as_json=as_json, quiet=quiet, refused=True)  # shows by how much, and where
        raise
    _show(report, as_json=as_json, quiet=quiet)


def _show(report: Report, *, as_json: bool, quiet: bool, refused: bool = False) -> None:
    from onnxq.cli.show_report import report_parts
    from onnxq.cli.terminal import show, show_text, warn
    from onnxq.files.report import report_to_json

    if as_json:
        show_text(report_to_json(report))
    if as_json or quiet:
        warn(report.warnings)
    else:
        show(*report_parts(report, refused=refused))
