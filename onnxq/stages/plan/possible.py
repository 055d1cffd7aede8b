"""Schemes that can be had nowhere in a model are refused before any work."""

from __future__ import annotations

from collections.abc import Sequence

from onnxq.errors import RecipeError
from onnxq.stages.plan.candidates import Candidate, Kept
from onnxq.stages.plan.kernel_choice import NO_SCHEME
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe, Rule


def check_possible(examined: Sequence[Candidate | Kept], recipe: Recipe) -> None:
    """Refuse schemes that no node can have: the recipe's, and those of each rule that must match.

    Raises:
        RecipeError: there are such; names a node and what would do.
    """
    asked: list[tuple[str, int | None, Recipe | Rule]] = [("the recipe", None, recipe)]
    asked += [(f"rule {index}", index, rule) for index, rule in enumerate(recipe.rules) if not rule.optional]
    for who, index, part in asked:
        spoken = [entry for entry in examined if entry.wish is not None and entry.wish.rule == index]
        refused = [entry for entry in spoken if isinstance(entry, Kept) and _is_about_scheme(entry)]
        if refused and _sets_scheme(part) and not any(isinstance(entry, Candidate) for entry in spoken):
            raise RecipeError(f"no node can have what {who} wants: '{refused[0].name}': {refused[0].reason.text}")


def _is_about_scheme(entry: Kept) -> bool:
    """Tell whether a node is kept because of types, granularities or, of weights alone, their blocks."""
    about = {NO_SCHEME, "condition"} if entry.wish and entry.wish.format is Format.WEIGHT_ONLY else {NO_SCHEME}
    return entry.reason.code in about


def _sets_scheme(part: Recipe | Rule) -> bool:
    chosen = [choice.model_fields_set - {"method"} for choice in (part.activations, part.weights) if choice is not None]
    return any(chosen)
