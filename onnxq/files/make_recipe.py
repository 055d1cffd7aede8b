"""What a call asked for, as one Recipe: a file or mapping first, then options, then what `keep` names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxq.errors import RecipeError
from onnxq.files.recipe import read_recipe
from onnxq.ops import known_operators
from onnxq.types.recipe import Recipe


def make_recipe(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    calibration: object = None,
    evaluation: object = None,
    keep: str | Iterable[str] = (),
    **options: Any,
) -> Recipe:
    """Return the complete recipe of a call.

    Args:
        recipe: a Recipe, its plain form, or the path of a YAML or JSON file; None for the defaults.
        calibration, evaluation: data sources; those that can be written down (paths, `module:callable`) are.
        keep: what stays in float, each an operator type, a node name or a pattern; becomes rules after all others.
        options: fields of the recipe, over those of `recipe`; None leaves what is there.

    Raises:
        RecipeError: an unknown key (with the nearest spelling), a wrong value, or a file that cannot be read.
    """
    plain = _plain(recipe) | {name: value for name, value in options.items() if value is not None}
    for name, value in (("calibration", calibration), ("evaluation", evaluation)):
        if isinstance(value, str | Path):
            plain[name] = str(value)
    kept = [_keep_rule(pattern) for pattern in ([keep] if isinstance(keep, str) else keep)]
    if kept:
        plain["rules"] = [*Recipe.parse(plain).plain()["rules"], *kept]
    return Recipe.parse(plain)


def _plain(recipe: object) -> dict[str, Any]:
    if recipe is None:
        return {}
    if isinstance(recipe, str | Path):
        return read_recipe(Path(recipe))
    if isinstance(recipe, Recipe):
        return recipe.plain()
    if isinstance(recipe, Mapping):
        return dict(recipe)
    raise RecipeError(f"a recipe is a Recipe, a mapping or the path of a file, not {type(recipe).__name__}")


def _keep_rule(pattern: str) -> dict[str, Any]:
    """Return the rule that keeps operators of the type `pattern` in float if there is such a type, else nodes."""
    kind = "op" if "::" in pattern or pattern in known_operators() else "name"
    return {"match": {kind: pattern}, "keep": "float"}
