"""`onnxq recipes`: good recipes to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxq.cli.options import Json

Name = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="Print this one as YAML; without: list them.", show_default=False)
]


def command(name: Name = None, as_json: Json = False) -> None:
    """List the built-in recipes, or print one; `--recipe NAME` uses it, `--recipe FILE` one of your own."""
    from onnxq.cli.table import table
    from onnxq.cli.terminal import show, show_json, show_text
    from onnxq.recipes import recipe_names, recipe_text

    if name is not None:
        text = recipe_text(name)
        if as_json:
            from onnxq.files.recipe import parse_recipe_text

            show_json(parse_recipe_text(text, name))
        else:
            show_text(text)
    elif as_json:
        show_json(recipe_names())
    else:
        show(table(["recipe", "what it is for"], recipe_names().items()))
