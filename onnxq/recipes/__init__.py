"""Good recipes to start from, one YAML file each; the first line, a comment, says what it is for."""

from __future__ import annotations

from importlib import resources

from onnxq.errors import RecipeError, nearest


def recipe_names() -> dict[str, str]:
    """Return name -> what it is for, sorted by name."""
    files = [entry for entry in resources.files(__name__).iterdir() if entry.name.endswith(".yaml")]
    summaries = {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in files}
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in sorted(summaries.items())}


def recipe_text(name: str) -> str:
    """Return the YAML text of a recipe; raises RecipeError with the nearest spelling for an unknown name."""
    known = recipe_names()
    if name not in known:
        raise RecipeError(f"unknown recipe '{name}'{nearest(name, known)}")
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
