"""`onnxq plan`: what would happen to every node, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxq.cli.options import Json, Model, Statistics

Explain = Annotated[
    str | None, typer.Option(metavar="NODE", help="Tell all that is known about one node, instead of the whole plan.")
]


def command(
    model: Model, options: dict[str, Any], statistics: Statistics = None, explain: Explain = None, as_json: Json = False
) -> None:
    """Print what would happen to every node, and why; write nothing. Takes the same options as quantize."""
    from onnxq.api import plan
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.show_plan import show_node, show_plan
    from onnxq.cli.terminal import show_text, warn
    from onnxq.files.plan import plan_to_json

    made = plan(model, **options, statistics=statistics, progress=terminal_progress())
    warn(made.warnings)
    if explain is not None:
        show_node(made, explain, as_json=as_json)
    elif as_json:
        show_text(plan_to_json(made))
    else:
        show_plan(made)
