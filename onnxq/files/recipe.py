"""Recipes as text (YAML or JSON in, YAML out), and the one Recipe of a call: a file, then options, then `keep`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxq.errors import RecipeError, nearest
from onnxq.ops import known_operators
from onnxq.recipes import recipe_text
from onnxq.types.recipe import Recipe


def read_recipe(path: Path) -> dict[str, Any]:
    """Return what a YAML or JSON file says, unchecked: `Recipe.parse` checks it. A report is read for its recipe.

    A name without folder and suffix that is not a file is that of a built-in recipe.

    Raises:
        RecipeError: the file cannot be read, or is neither YAML nor JSON (JSON is YAML); names the line.
    """
    if not path.exists() and path.name == str(path) and not path.suffix:
        return parse_recipe_text(recipe_text(path.name), path.name)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"recipe '{path}' does not exist{_neighbour(path)}") from None
    except OSError as error:
        raise RecipeError(f"recipe '{path}' cannot be read: {error.strerror}; check the file") from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe '{path}' is not text; give a YAML or JSON file") from None
    return parse_recipe_text(text, path)


def parse_recipe_text(text: str, where: object) -> dict[str, Any]:
    """Return what YAML or JSON text says, unchecked; raises RecipeError that names `where`, and the line."""
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe '{where}' is neither YAML nor JSON: {_fault(error)}; correct it there") from None
    if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
        data = data["recipe"]
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise RecipeError(f"recipe '{where}' holds a {type(data).__name__}; a recipe is a mapping of options")
    return {str(key): value for key, value in data.items()}


def dump_recipe(recipe: Recipe) -> str:
    """Return the complete recipe as YAML, defaults included; reading it back gives the same recipe."""
    import yaml

    return yaml.safe_dump(recipe.plain(), sort_keys=False, allow_unicode=True)


def _fault(error: Exception) -> str:
    """Return what a parser found and where, on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return problem if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _neighbour(path: Path) -> str:
    """Return a hint at a file of nearly the same name in the same folder."""
    if not path.parent.is_dir():
        return f"; there is no folder '{path.parent}'"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml", ".json")]
    return nearest(path.name, names) if names else "; check the path"


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
