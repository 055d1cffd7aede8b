"""`onnxq plan`: what would happen to every node, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxq.cli.options import Json, Model, Statistics

Explain = Annotated[
    str | None, typer.Option(metavar="NODE", help="Show all that is known about one node, instead of the whole plan.")
]


def command(
    model: Model, options: dict[str, Any], statistics: Statistics = None, explain: Explain = None, as_json: Json = False
) -> None:
    """Print what would happen to every node, and why; write nothing. Takes the same options as quantize."""
    from onnxq import api
    from onnxq.cli.progress import terminal_progress
    from onnxq.cli.show_plan import show_node, show_plan
    from onnxq.cli.terminal import show_text, warn
    from onnxq.files.plan import plan_to_json

    plan = api.plan(model, **options, statistics=statistics, progress=terminal_progress())
    warn(plan.warnings)
    if explain is not None:
        show_node(plan, explain, as_json=as_json)
    elif as_json:
        show_text(plan_to_json(plan))
    else:
        show_plan(plan)
